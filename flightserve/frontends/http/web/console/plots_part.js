// What the app did in the last minutes. The frontend keeps it, so that it is there when somebody comes to look.
import { make, freshId } from "./elements.js";
import { count } from "./figures.js";
import { Plot } from "./plot.js";
import { ask } from "./requests.js";

const PERIOD_MS = 2500;
// Samples are a few seconds apart; where one is missing, lines have a gap.
const GAP = 2.5;
const SHOWN_MS_MIN = 120_000;
const APP = "all frontends";
const TABLE = ["Time", "Requests/s", "Completed/s", "Failed/s", "Shed/s", "Queued", "Queue wait", "Requests a batch", "Rows a batch", "p50", "p95", "p99"];
const TABLE_FIELDS = ["arrived", "completed", "failed", "shed", "queued", "queue_wait_ms", "batch_requests", "batch_rows", "p50_ms", "p95_ms", "p99_ms"];

export class PlotsPart {
  needs = "operate";
  title = "Plots";
  #of = "";
  #deployment = "";
  #points = [];
  #asking = false;
  #due = 0;
  #choice = make("select", { id: freshId("deployment") });
  #said = make("p", { className: "hint" });
  #error = make("p", { className: "error", role: "alert" });
  #latency = new Plot("Time to the answer", "this frontend", " ms", { p99_ms: "99 % under", p95_ms: "95 % under", p50_ms: "half under" });
  #plots = [
    new Plot("Requests", `a second, ${APP}`, "/s", { arrived: "arrived", completed: "completed" }),
    this.#latency,
    new Plot("Queue wait", `mean until the first run, ${APP}`, " ms", { queue_wait_ms: "waited" }),
    new Plot("Queued", `now, ${APP}`, "", { queued: "requests" }),
    new Plot("Not answered", `a second, ${APP}`, "/s", { shed: "shed", failed: "failed", expired: "out of time", cancelled: "cancelled" }),
    new Plot("Micro-batches", `mean size, ${APP}`, "", { batch_rows: "rows", batch_requests: "requests" }),
  ];
  #body = make("tbody");

  constructor() {
    this.#choice.onchange = () => this.#choose(this.#choice.value);
    this.#offer([]);
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...TABLE.map((name) => make("th", { scope: "col", textContent: name })))), this.#body);
    const values = make("details", { className: "card" }, make("summary", { textContent: "Values" }),
      make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Values" }, table));
    values.ontoggle = () => this.#write();
    this.element = make("div", {},
      make("div", { className: "card" }, make("h2", { textContent: "The last 15 minutes" }), this.#error,
        make("div", { className: "actions" }, make("label", { htmlFor: this.#choice.id, textContent: "Deployment" }), this.#choice), this.#said),
      make("div", { className: "plots" }, ...this.#plots.map((plot) => plot.element)), values);
    this.#values = values;
  }

  #values;

  open() {
    this.#due = 0;
    this.update();
  }

  // Called while it is shown.
  async update() {
    if (this.#asking || performance.now() < this.#due) return;
    this.#asking = true;
    this.#due = performance.now() + PERIOD_MS;
    const deployment = this.#deployment;
    let found = null;
    try {
      const query = new URLSearchParams({ deployment, of: this.#of, after: String(this.#points.at(-1)?.number ?? 0) });
      found = await (await ask(`console/history?${query}`, { signal: AbortSignal.timeout(5000) })).json();
      this.#error.textContent = "";
    } catch (error) {
      // That nobody answers is said above all parts.
      if (error.status) this.#error.textContent = `Plots are not shown: ${error.message}`;
    } finally {
      this.#asking = false;
    }
    if (deployment !== this.#deployment) this.update();
    else if (found) this.#take(found);
  }

  #choose(deployment) {
    this.#deployment = deployment;
    this.#points = [];
    this.#due = 0;
    this.update();
  }

  // Another frontend than before has other samples.
  #take({ of, frontend, fields, samples, every_s: everyS, window_s: windowS, deployments }) {
    const now = Date.now();
    const came = samples.map(([number, age, ...values]) => ({ number, t: now - age * 1000, ...Object.fromEntries(fields.map((field, place) => [field, values[place]])) }));
    this.#points = (of === this.#of ? this.#points : []).concat(came).filter(({ t }) => t >= now - (windowS + everyS) * 1000);
    this.#of = of;
    this.#offer(deployments);
    this.#said.textContent = this.#points.length
      ? `A sample every ${everyS} s, kept by ${frontend}. Requests are counted by the routers, for the whole app; the time to the answer by ${frontend}, for its own.`
      : `The first sample comes ${everyS} s after ${frontend} began.`;
    // As far back as there is something.
    const from = Math.max(now - windowS * 1000, Math.min(now - SHOWN_MS_MIN, this.#points[0]?.t ?? now));
    this.#write(from, now, everyS * GAP * 1000);
  }

  #write(from, until, gapMs) {
    if (until) for (const plot of this.#plots) plot.write(this.#points, from, until, gapMs);
    if (!this.#values.open) return;
    this.#body.replaceChildren(...this.#points.toReversed().map((point) => make("tr", {}, make("td", { className: "short", textContent: new Date(point.t).toLocaleTimeString() }),
      ...TABLE_FIELDS.map((field) => make("td", { className: "number", textContent: point[field] === null ? "" : count(point[field]) })))));
  }

  #offer(deployments) {
    const names = ["", ...deployments];
    if (this.#deployment && !deployments.includes(this.#deployment)) names.push(this.#deployment);
    if (names.join("\n") === this.#choice.dataset.names) return;
    this.#choice.dataset.names = names.join("\n");
    this.#choice.replaceChildren(...names.map((name) => make("option", { value: name, textContent: name || "All together" })));
    this.#choice.value = this.#deployment;
  }
}
