// The tiers: a picture of them, and the same as tables.
import { make } from "./elements.js";
import { count, duration, health, Lately, mark, several, share } from "./figures.js";
import { Rows } from "./rows.js";
import { tiersPicture } from "./tiers_picture.js";

const DEPLOYMENT_COLUMNS = [["Deployment", "short"], ["State", "short"], ["Replicas", "short"], ["Router", "short"], ["Requests/s", "number"],
  ["Queued", "number"], ["Queue wait", "number"], ["Shed/s", "number"], ["Failed/s", "number"], ["Version", "short"], ["Why", "long"]];
const PROCESS_COLUMNS = [["Process", "short"], ["State", "short"], ["Load", "short"], ["Queued", "number"], ["Restarts", "number"], ["Node", "short"],
  ["Pid", "number"], ["Age", "number"], ["Addresses", "long"]];

export class TiersPart {
  needs = "operate";
  title = "Tiers";
  #picture = make("div");
  #left = make("p", { className: "hint" });
  #deployments = new Rows("Deployments", DEPLOYMENT_COLUMNS);
  #processes = new Rows("Processes", PROCESS_COLUMNS);
  #lately = new Lately();
  #given = null;
  #newest = null;
  #width = 0;

  constructor() {
    this.element = make("div", {},
      make("section", { className: "card", ariaLabel: "Tiers" }, make("h2", { textContent: "Tiers" }), this.#picture, this.#left),
      this.#deployments.element, this.#processes.element);
    new ResizeObserver(() => this.#draw(false)).observe(this.#picture);
  }

  open() {
    this.#width = 0;
  }

  update(given) {
    const picture = given === this.#given ? this.#newest : { ...given, processes: this.#lately.of(given, performance.now()) };
    this.#given = given;
    this.#newest = picture;
    this.#draw(true);
    this.#deployments.write(picture.deployments.map((each) => [`${each.name} ${each.version}`, deploymentCells(each)]));
    this.#processes.write(picture.processes.map((each) => [each.name, processCells(each, picture)]));
    const left = [[picture.processes_left_out, "process", "processes"], [picture.deployments_left_out, "deployment"]]
      .filter(([number]) => number).map((what) => several(...what));
    this.#left.textContent = left.length ? `Not shown: ${left.join(", ")}; flightserve status shows all.` : "";
  }

  // `fresh`: the numbers are new. Else the room may be.
  #draw(fresh) {
    const width = Math.floor(this.#picture.clientWidth);
    if (!this.#newest || !width || (!fresh && width === this.#width)) return;
    this.#width = width;
    this.#picture.replaceChildren(this.#newest.tiers ? tiersPicture(this.#newest, width)
      : make("p", { textContent: "The app runs within one process, without tiers." }));
  }
}

function deploymentCells(each) {
  const wanted = each.desired === undefined ? "" : `${count(each.ready)} of ${count(each.desired)}`;
  const draining = each.draining ? `, ${count(each.draining)} draining` : "";
  return [
    each.name, each.state, wanted + draining, each.router, figure(each.arrived), figure(each.queued), milliseconds(each.queue_wait_ms),
    figure(each.shed), figure(each.failed), each.version ?? "", [each.bounds, each.why].filter(Boolean).join(": "),
  ];
}

function processCells(each, { nodes }) {
  const state = health(each);
  return [
    each.name, { text: `${mark[state]} ${each.ready ? "ready" : each.phase}`, className: { ready: "ok", going: "wait", down: "wrong" }[state] },
    share(each).text, figure(each.numbers.queued_requests), figure(each.restarts), nodes[each.node] ?? each.node.slice(0, 8),
    each.pid ? String(each.pid) : "", duration(each.age_s), Object.values(each.addresses).join(" "),
  ];
}

const figure = (value) => (value === undefined || value === null ? "" : count(value));
const milliseconds = (value) => (value === undefined || value === null ? "" : `${count(value)} ms`);
