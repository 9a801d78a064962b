// The console: which part is shown, what is said above all parts, and what is asked for again and again meanwhile.
import { CallPart } from "./call_part.js";
import { fragment, make } from "./elements.js";
import { Feed } from "./feed.js";
import { PlotsPart } from "./plots_part.js";
import { Refused } from "./requests.js";
import { SqlPart } from "./sql_part.js";
import { keptToken, signInForm, useToken, whoAsks } from "./session.js";
import { TiersPart } from "./tiers_part.js";

// On parts that draw what is now, and on the others, which only want to know whether the server is there.
const LIVE_MS = 1000;
const IDLE_MS = 5000;
const LACKING = {
  operate: "it takes a role with operate = true.",
  query: "it takes a role that grants query on tables.",
  call: "it takes a role that grants call on deployments.",
};

const main = document.getElementById("main");
const PARTS = { tiers: TiersPart, plots: PlotsPart, sql: SqlPart, methods: CallPart };
let parts = {};
let links = [];
let me = null;
let feed = null;

// Begin, with who asks; anew where that becomes another.
async function begin() {
  feed?.stop();
  useToken(keptToken());
  try {
    me = await whoAsks();
  } catch (error) {
    me = null;
    feed = null;
    signIn();
    main.replaceChildren(make("p", { className: "card error", role: "alert", textContent: said(error) }));
    if (!(error instanceof Refused)) setTimeout(begin, IDLE_MS);
    return;
  }
  signIn();
  parts = Object.fromEntries(Object.entries(PARTS).map(([name, Part]) => [name, new Part(me)]));
  links = Object.entries(parts).map(([name, part]) => make("a", { href: `#${name}`, textContent: part.title }));
  document.getElementById("parts").replaceChildren(...links.map((link) => make("li", {}, link)));
  feed = new Feed(me.operate ? "console/live" : "console/me", take, notices);
  go();
}

const said = (error) => (error instanceof Refused ? error.message : "The server does not answer. It is asked again every few seconds.");

function signIn() {
  document.getElementById("me").replaceChildren(...(me && !me.closed ? [] : [signInForm(me, begin)]));
}

function take(picture) {
  if (!picture.app) return;
  write(picture);
  parts[shown()].update?.(picture);
}

// The first that one may see, where nothing else is asked for.
function shown() {
  const name = fragment();
  if (Object.hasOwn(parts, name)) return name;
  return Object.keys(parts).find((each) => me[parts[each].needs]) ?? "tiers";
}

// Any other fragment, as that of the link to the content, is none of a part.
function go(event) {
  if (!feed || (event && !Object.hasOwn(parts, fragment()))) return;
  const part = parts[shown()];
  for (const link of links) {
    if (link.hash === `#${shown()}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const may = me[part.needs];
  main.replaceChildren(may ? part.element : make("p", { className: "card", textContent: `${me.name} may not see this: ${LACKING[part.needs]}` }));
  document.title = `${part.title}: flightserve console`;
  if (may) part.open?.();
  feed.every(part.update && may ? LIVE_MS : IDLE_MS);
  if (!event) return;
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
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
    found.push(["bad", `This app is insecure: ${picture.insecure}`]);
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
begin();
