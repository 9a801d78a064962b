// Numbers over the last minutes: a line for each. Below it stand what they are now, or where the pointer or the arrow
// keys are.
import { acrossAt, below, domainOf, FRAME, scale } from "./axes.js";
import { freshId, make } from "./elements.js";
import { count } from "./figures.js";
import { draw } from "./svg.js";

const HEIGHT = 170;

export class Plot {
  #fields;
  #unit;
  #points = [];
  #from = 0;
  #until = 1;
  #gapMs = Infinity;
  #at = null;
  #drawn = make("div", { tabIndex: 0, role: "group" });
  #legend = make("ul", { className: "legend" });
  #cursor = null;
  #width = 0;

  // `fields`: the names of the lines by the fields of a point that they show.
  constructor(title, about, unit, fields) {
    this.#fields = Object.entries(fields);
    this.#unit = unit;
    const id = freshId("plot");
    this.#drawn.setAttribute("aria-labelledby", id);
    this.title = title;
    this.element = make("figure", { className: "card" }, make("figcaption", { id }, title, " ", make("small", { textContent: about })), this.#drawn, this.#legend);
    this.#drawn.addEventListener("pointermove", (event) => this.#point(event));
    this.#drawn.addEventListener("pointerleave", () => this.#show(null));
    this.#drawn.addEventListener("blur", () => this.#show(null));
    this.#drawn.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#drawn.clientWidth !== this.#width && this.#draw()).observe(this.#drawn);
  }

  // `points`: each `{t, ...fields}`, by time; those further apart than `gapMs` are not joined.
  write(points, from, until, gapMs) {
    [this.#points, this.#from, this.#until, this.#gapMs] = [points, from, until, gapMs];
    this.#draw();
  }

  #x() {
    return scale(this.#from, this.#until, FRAME.left, this.#width - FRAME.right);
  }

  #draw() {
    const width = (this.#width = this.#drawn.clientWidth);
    if (!width) return;
    const values = this.#points.flatMap((point) => this.#fields.map(([field]) => point[field]).filter((value) => value !== null && value !== undefined));
    const domain = domainOf(values);
    const [x, y] = [this.#x(), scale(...domain, HEIGHT - FRAME.bottom, FRAME.top)];
    const minutes = (this.#until - this.#from) / 60000;
    const step = [1, 2, 5].find((each) => minutes / each <= 4) ?? 5;
    const marks = [0, 1, 2, 3, 4].map((number) => number * step).filter((ago) => ago <= minutes).map((ago) =>
      below(ago ? `${ago} min ago` : "now", x(this.#until - ago * 60000), HEIGHT, !ago ? "end" : ago > minutes - step / 3 ? "start" : "middle"));
    const curves = this.#fields.map(([field], place) => draw("path", { class: `curve s${place}`, d: this.#path(field, x, y) }));
    this.#cursor = draw("line", { class: "cursor", y1: FRAME.top, y2: HEIGHT - FRAME.bottom, visibility: "hidden" });
    this.#drawn.replaceChildren(draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": this.#inWords() },
      ...acrossAt(domain, y, width), ...marks, ...curves, this.#cursor));
    this.#show(this.#at);
  }

  #path(field, x, y) {
    let [path, before] = ["", -Infinity];
    for (const point of this.#points) {
      const value = point[field];
      if (value === null || value === undefined) continue;
      const at = `${x(point.t).toFixed(1)},${y(value).toFixed(1)}`;
      // A value alone is a dot.
      path += point.t - before > this.#gapMs ? `M${at}h.01` : `L${at}`;
      before = point.t;
    }
    return path;
  }

  #inWords() {
    if (!this.#points.length) return `${this.title}: nothing yet`;
    const said = this.#fields.map(([field, name]) => {
      const values = this.#points.map((point) => point[field]).filter((value) => value !== null && value !== undefined);
      return values.length ? `${name} ${this.#figure(values.at(-1))}, at most ${this.#figure(Math.max(...values))}` : `${name}: none`;
    });
    return `${this.title}: ${said.join("; ")}`;
  }

  #figure = (value) => (value === null || value === undefined ? "\u2013" : `${count(value)}${this.#unit}`);

  #point(event) {
    const { left } = this.#drawn.getBoundingClientRect();
    const x = this.#x();
    const distance = (point) => Math.abs(x(point.t) - (event.clientX - left));
    const nearest = this.#points.reduce((best, point) => (best && distance(best) <= distance(point) ? best : point), null);
    this.#show(nearest?.t ?? null);
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !this.#points.length) return;
    event.preventDefault();
    const place = this.#points.findIndex((point) => point.t === this.#at);
    const next = place < 0 ? this.#points.length - 1 : place + step;
    this.#show(this.#points[Math.max(0, Math.min(this.#points.length - 1, next))].t);
  }

  // The values at that time; the newest where that is none.
  #show(at) {
    const point = this.#points.find((each) => each.t === at);
    this.#at = point ? at : null;
    const shown = point ?? this.#points.at(-1);
    this.#cursor?.setAttribute("visibility", point ? "visible" : "hidden");
    if (point) for (const side of ["x1", "x2"]) this.#cursor.setAttribute(side, this.#x()(point.t).toFixed(1));
    const when = point ? [make("li", { textContent: new Date(point.t).toLocaleTimeString() })] : [];
    this.#legend.replaceChildren(...this.#fields.map(([field, name], place) => make("li", {},
      draw("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, draw("line", { x1: 0, x2: 26, y1: 4, y2: 4, class: `curve s${place}` })),
      `${name} `, make("b", { textContent: this.#figure(shown?.[field]) }))), ...when);
  }
}
