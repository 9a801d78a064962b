// The console: which part is shown, what is said above all parts, and what is asked for again and again meanwhile.
import { CallPart } from "./call_part.js";
import { make } from "./elements.js";
import { Feed } from "./feed.js";
import { PlotsPart } from "./plots_part.js";
import { SqlPart } from "./sql_part.js";
import { TiersPart } from "./tiers_part.js";

// On parts that draw what is now, and on the others, which only want to know whether the server is there.
const LIVE_MS = 1000;
const IDLE_MS = 5000;

const parts = { tiers: new TiersPart(), plots: new PlotsPart(), sql: new SqlPart(), methods: new CallPart() };
const links = Object.entries(parts).map(([name, part]) => make("a", { href: `#${name}`, textContent: part.title }));
const main = document.getElementById("main");
const feed = new Feed((picture) => {
  write(picture);
  parts[shown()].update?.(picture);
}, notices);

document.getElementById("parts").append(...links.map((link) => make("li", {}, link)));

function shown() {
  const name = decodeURIComponent(location.hash.slice(1));
  return Object.hasOwn(parts, name) ? name : "tiers";
}

// Any other fragment, as that of the link to the content, is none of a part.
function go(event) {
  if (event && !Object.hasOwn(parts, decodeURIComponent(location.hash.slice(1)))) return;
  const part = parts[shown()];
  for (const link of links) {
    if (link.hash === `#${shown()}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren(part.element);
  document.title = `${part.title}: flightserve console`;
  part.open?.();
  feed.every(part.update ? LIVE_MS : IDLE_MS);
  if (event) main.focus();
}

function write({ app, frontend }) {
  const said = [app.app_id && `app ${app.app_id}`, app.phase, app.problem, app.change && `changing: ${app.change}`, `shown by ${frontend}`];
  const text = said.filter(Boolean).join(", ");
  const state = document.getElementById("state");
  if (state.textContent !== text) state.textContent = text;
}

// What people have to know whatever they look at. Set only where it changes: a screen reader reads what is new.
function notices(picture, gone) {
  const found = [];
  if (gone) found.push(["bad", gone]);
  if (picture?.insecure) {
    found.push(["bad", "This app runs with --insecure: whoever reaches its ports may call and read everything."]);
  }
  if (!gone && picture?.problem) {
    found.push(["", `What is shown of the tiers is ${picture.silent_s} s old: ${picture.problem}`]);
  }
  const box = document.getElementById("notices");
  const texts = found.map(([kind, text]) => `${kind} ${text}`).join("\n");
  if (box.dataset.texts === texts) return;
  box.dataset.texts = texts;
  box.replaceChildren(...found.map(([kind, text]) => make("p", { className: `notice ${kind}`, textContent: text })));
}

addEventListener("hashchange", go);
go();
