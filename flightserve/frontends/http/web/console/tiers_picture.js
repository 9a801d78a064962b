// The picture of the tiers: frontends above, routers, then replicas by deployment, and who looks after them below. A box
// is a process; a line is who sends to whom, the thicker the more. It is laid out for the width that there is.
import { count, cut, health, mark, several, share } from "./figures.js";
import { draw, words } from "./svg.js";

const BOX = { width: 164, height: 62, gap: 12 };
const SMALL = { width: 118, height: 44, gap: 8 };
const TITLE = 18;
const BETWEEN = 44;
const MARGIN = 2;
// Of more replicas of one deployment the rest is counted, and of so many lines each is drawn.
const REPLICAS_MAX = 24;
const LINES_MAX = 80;
const CHAR = 7.1;

export function tiersPicture(picture, width) {
  const of = (...tiers) => picture.processes.filter((each) => tiers.includes(each.tier));
  const boxes = [];
  let y = 0;
  const frontends = band("Frontends", of("frontend"), width, y, picture);
  y = frontends.bottom + BETWEEN;
  const routers = band("Routers", of("router"), width, y, picture);
  y = routers.bottom + BETWEEN;
  const replicas = groups(picture, of("replica"), width, y);
  y = replicas.bottom + 20;
  const others = band("Beside them", of("standby", "carrier"), width, y, picture);
  y = others.places.size ? others.bottom : replicas.bottom;
  boxes.push(...lines(picture, frontends, routers, replicas));
  for (const each of [frontends, routers, replicas, ...(others.places.size ? [others] : [])]) boxes.push(...each.drawn);
  return draw("svg", { viewBox: `0 0 ${width} ${y + MARGIN}`, role: "img", "aria-label": inWords(picture, of) }, ...boxes);
}

function inWords({ deployments }, of) {
  const all = of("frontend", "router", "replica");
  const down = all.filter((each) => !each.ready).map((each) => `${each.name} is ${each.phase}`);
  const queued = of("router").reduce((sum, each) => sum + (each.numbers.queued_requests ?? 0), 0);
  const names = new Set(deployments.map((each) => each.name));
  return `${several(of("frontend").length, "frontend")}, ${several(of("router").length, "router")}, ${several(of("replica").length, "replica")} of ` +
    `${several(names.size, "deployment")}; ${several(queued, "request")} queued; ${down.length ? down.slice(0, 5).join(", ") : "all ready"}. The tables below say the same.`;
}

// Boxes of one tier in rows, with its title.
function band(title, processes, width, top, picture) {
  const places = new Map();
  const drawn = [words(title, MARGIN, top + 12, "tier")];
  const { rows, columns, put } = grid(processes.length, width, BOX);
  const left = Math.max(MARGIN, (width - columns * (BOX.width + BOX.gap) + BOX.gap) / 2);
  processes.forEach((each, number) => {
    const at = put(number, left, top + TITLE);
    places.set(each.name, { ...at, ...BOX });
    drawn.push(processBox(each, at, picture));
  });
  if (!processes.length) drawn.push(words("none", MARGIN, top + TITLE + 14, "small"));
  return { places, drawn, bottom: top + TITLE + (processes.length ? rows * (BOX.height + BOX.gap) - BOX.gap : 20) };
}

function grid(number, width, { width: w, height: h, gap }) {
  const columns = Math.max(1, Math.min(number, Math.floor((width - 2 * MARGIN + gap) / (w + gap))));
  const put = (place, x, y) => ({ x: x + (place % columns) * (w + gap), y: y + Math.floor(place / columns) * (h + gap) });
  return { columns, rows: Math.max(1, Math.ceil(number / columns)), put };
}

function processBox(each, { x, y }, { nodes }) {
  const state = health(each);
  const { text } = share(each);
  const queued = each.numbers.queued_requests;
  const second = queued === undefined ? text : `${count(queued)} queued`;
  const third = queued === undefined ? "" : text;
  const node = nodes[each.node];
  const about = [each.name, each.ready ? "ready" : each.phase, text, several(each.restarts, "restart"), node && `node ${node}`, `pid ${each.pid}`];
  return draw("g", {}, draw("title", {}, about.filter(Boolean).join(", ")),
    draw("rect", { x, y, width: BOX.width, height: BOX.height, rx: 6, class: `box ${state}` }),
    words(cut(each.name, Math.floor((BOX.width - 34) / CHAR)), x + 10, y + 19, "strong"),
    words(mark[state], x + BOX.width - 20, y + 19, `mark ${state}`),
    words(cut(each.ready ? second : each.phase, 24), x + 10, y + 36, "small"),
    words(cut([third, each.restarts ? several(each.restarts, "restart") : "", node].filter(Boolean).join(", "), 25), x + 10, y + 52, "small"));
}

// Replicas by deployment: a frame each, in rows.
function groups(picture, replicas, width, top) {
  const drawn = [words("Replicas", MARGIN, top + 12, "tier")];
  const places = new Map();
  const frames = picture.deployments.map((each) => framed(each, replicas, width - 2 * MARGIN)).filter(Boolean);
  let y = top + TITLE;
  while (frames.length) {
    const row = [frames.shift()];
    const wide = () => row.reduce((sum, { w }) => sum + w + BOX.gap, -BOX.gap);
    while (frames.length && wide() + BOX.gap + frames[0].w <= width - 2 * MARGIN) row.push(frames.shift());
    let x = Math.max(MARGIN, (width - wide()) / 2);
    for (const frame of row) {
      drawn.push(...frame.draw(x, y, picture));
      const { name, router, arrived, state } = frame.deployment;
      if (state === "served") places.set(name, { x, y, width: frame.w, height: frame.h, router, load: arrived ?? 0 });
      x += frame.w + BOX.gap;
    }
    y += Math.max(...row.map(({ h }) => h)) + BOX.gap;
  }
  return { drawn, places, bottom: y - BOX.gap };
}

// A deployment's frame: how large it is, and how it is drawn at a place. None for a version that has no replicas any more.
function framed(deployment, replicas, room) {
  const own = replicas.filter((one) => one.deployment === deployment.name && one.version === deployment.version);
  if (!own.length && deployment.state !== "served") return null;
  const shown = own.slice(0, REPLICAS_MAX);
  const number = Math.max(1, shown.length + (own.length > shown.length ? 1 : 0));
  const laid = grid(number, Math.min(room - 20, 6 * (SMALL.width + SMALL.gap)), SMALL);
  const w = Math.max(Math.min(room, 236), laid.columns * (SMALL.width + SMALL.gap) - SMALL.gap + 20);
  const h = 46 + laid.rows * (SMALL.height + SMALL.gap) + 4;
  const draw = (x, y, picture) => {
    const drawn = [group(deployment, { x, y, w, h }), ...shown.map((one, place) => replicaBox(one, laid.put(place, x + 10, y + 44), picture))];
    const at = laid.put(number - 1, x + 10, y + 44);
    if (own.length > shown.length) drawn.push(words(`and ${count(own.length - shown.length)} more`, at.x + 6, at.y + 26, "small"));
    return drawn;
  };
  return { deployment, w, h, draw };
}

function group(each, { x, y, w, h }) {
  const ready = each.desired === undefined ? "" : `${count(each.ready)} of ${count(each.desired)} ready`;
  const load = each.arrived === undefined ? "" : `${count(each.arrived)}/s`;
  const queued = each.queued ? `${count(each.queued)} queued` : "";
  const shed = each.shed ? `${count(each.shed)}/s shed` : "";
  const state = each.state === "served" ? "" : each.state;
  return draw("g", {}, draw("title", {}, `${each.name} ${each.version ?? ""}`),
    draw("rect", { x, y, width: w, height: h, rx: 8, class: "group" }),
    words(cut(each.name, Math.floor((w - 20) / CHAR)), x + 10, y + 18, "strong"),
    words(cut([state, ready, load, queued, shed].filter(Boolean).join(", "), Math.floor((w - 20) / 5.6)), x + 10, y + 35, "small"));
}

function replicaBox(each, { x, y }, { nodes }) {
  const state = health(each);
  const { of, text } = share(each);
  const name = each.name.replace(`replica-${each.deployment}-`, "replica ");
  const about = [each.name, each.ready ? "ready" : each.phase, text, several(each.restarts, "restart"), nodes[each.node] && `node ${nodes[each.node]}`, `pid ${each.pid}`];
  const bar = SMALL.width - 16;
  return draw("g", {}, draw("title", {}, about.filter(Boolean).join(", ")),
    draw("rect", { x, y, width: SMALL.width, height: SMALL.height, rx: 5, class: `box ${state}` }),
    words(cut(name + (each.restarts ? ` \u21bb${count(each.restarts)}` : ""), 14), x + 8, y + 17),
    words(mark[state], x + SMALL.width - 17, y + 17, `mark ${state}`),
    draw("rect", { x: x + 8, y: y + 31, width: bar, height: 5, rx: 2.5, class: "empty" }),
    draw("rect", { x: x + 8, y: y + 31, width: bar * (of ?? 0), height: 5, rx: 2.5, class: "load" }));
}

function lines(picture, frontends, routers, replicas) {
  const drawn = [];
  if (frontends.places.size * routers.places.size <= LINES_MAX) {
    for (const from of frontends.places.values()) for (const to of routers.places.values()) drawn.push(line(from, to, 0));
  }
  for (const to of replicas.places.values()) {
    const from = routers.places.get(to.router);
    if (from && drawn.length < 2 * LINES_MAX) drawn.push(line(from, to, to.load));
  }
  return drawn;
}

function line(from, to, load) {
  const [x1, y1, x2, y2] = [from.x + from.width / 2, from.y + from.height, to.x + to.width / 2, to.y];
  const bend = Math.max(18, (y2 - y1) / 2);
  const d = `M${x1},${y1} C${x1},${y1 + bend} ${x2},${y2 - bend} ${x2},${y2}`;
  return draw("path", { d, class: "edge", "stroke-width": (1 + Math.log10(1 + load)).toFixed(2) });
}
