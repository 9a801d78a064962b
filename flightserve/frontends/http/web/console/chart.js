// A result as a chart: which column goes where can be chosen; what seems fit is drawn first.
import { acrossAt, below, domainOf, FRAME, scale, ticksBetween } from "./axes.js";
import { freshId, make } from "./elements.js";
import { count, cut } from "./figures.js";
import { isNumber } from "./grid.js";
import { draw } from "./svg.js";

const HEIGHT = 320;
// Of more points every so many-th is drawn, and of more bars the first.
const POINTS_MAX = 2000;
const BARS_MAX = 60;
const LOOKED_AT = 200;
const DAY = /^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?$/;

export class Chart {
  #names = [];
  #rows = [];
  #kinds = [];
  #x = select("Across");
  #y = select("Up");
  #how = select("As", ["bars", "lines", "points"]);
  #drawn = make("div");
  #said = make("p", { className: "hint" });
  #width = 0;

  constructor() {
    this.element = make("details", { hidden: true }, make("summary", { textContent: "Chart" }),
      make("div", { className: "actions" }, ...[this.#x, this.#y, this.#how].flatMap((each) => [make("label", { htmlFor: each.id, textContent: each.dataset.label }), each])),
      this.#drawn, this.#said);
    this.element.ontoggle = () => this.#draw();
    for (const each of [this.#x, this.#y]) each.onchange = () => this.#fit();
    this.#how.onchange = () => this.#draw();
    new ResizeObserver(() => this.#drawn.clientWidth !== this.#width && this.#draw()).observe(this.#drawn);
  }

  clear() {
    this.element.hidden = true;
    this.#rows = [];
  }

  // `rows` are those of `CsvReader`.
  show(names, rows) {
    const before = this.#names.join("\n") === names.join("\n") ? [this.#x.value, this.#y.value, this.#how.value] : null;
    [this.#names, this.#rows] = [names, rows];
    this.#kinds = names.map((_, place) => kindOf(rows, place));
    const numbers = names.flatMap((_, place) => (this.#kinds[place] === "number" ? [place] : []));
    this.element.hidden = !numbers.length || !rows.length;
    if (this.element.hidden) return;
    offer(this.#x, names, names.map((_, place) => place));
    offer(this.#y, names, numbers);
    const x = this.#kinds.findIndex((kind) => kind !== "number");
    this.#x.value = String(x < 0 ? 0 : x);
    this.#y.value = String(numbers.find((place) => place !== Number(this.#x.value)) ?? numbers[0]);
    if (before) [this.#x.value, this.#y.value] = before;
    this.#fit(before?.[2]);
  }

  #fit(how) {
    this.#how.value = how ?? { text: "bars", time: "lines", number: "points" }[this.#kinds[Number(this.#x.value)]];
    this.#draw();
  }

  #draw() {
    const width = (this.#width = this.#drawn.clientWidth);
    if (!width || !this.element.open || this.element.hidden) return;
    const [x, y, how] = [Number(this.#x.value), Number(this.#y.value), this.#how.value];
    const kind = how === "bars" ? "text" : this.#kinds[x];
    let points = this.#rows.flatMap((row, place) => pointOf(row[x], row[y], kind, place));
    const all = points.length;
    if (how === "bars") points = points.slice(0, BARS_MAX);
    else if (all > POINTS_MAX) points = points.filter((_, place) => Math.floor((place * POINTS_MAX) / all) !== Math.floor(((place - 1) * POINTS_MAX) / all));
    if (kind !== "text" && how === "lines") points.sort((a, b) => a.x - b.x);
    const what = `${this.#names[y]} by ${this.#names[x]}`;
    const left = this.#rows.length - all;
    this.#said.textContent = [
      points.length < all ? `${count(points.length)} of ${count(all)} values are drawn: ${how === "bars" ? "the first" : "evenly many of all"}.` : "",
      left ? `${count(left)} rows have no such value.` : "",
    ].join(" ");
    this.#drawn.replaceChildren(draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `${how} of ${what}, ${count(points.length)} values. The rows below are the same.` },
      ...(points.length ? figureOf(points, kind, how, width) : [below("There is nothing to draw.", width / 2, HEIGHT / 2)])));
  }
}

function figureOf(points, kind, how, width) {
  const domain = domainOf(points.map((point) => point.y), how === "bars" || how === "lines");
  const y = scale(...domain, HEIGHT - FRAME.bottom, FRAME.top);
  const drawn = acrossAt(domain, y, width);
  if (how === "bars") return [...drawn, ...bars(points, y, domain, width)];
  const places = kind === "text" ? [-0.5, points.length - 0.5] : spanOf(points.map((point) => point.x));
  points = kind === "text" ? points.map((point, place) => ({ ...point, x: place })) : points;
  const x = scale(...places, FRAME.left, width - FRAME.right);
  drawn.push(...labels(points, kind, places, x, width));
  if (how === "lines") {
    const path = points.map((point, place) => `${place ? "L" : "M"}${x(point.x).toFixed(1)},${y(point.y).toFixed(1)}`).join("");
    return [...drawn, draw("path", { class: "curve s0", d: points.length > 1 ? path : `${path}h1` })];
  }
  return [...drawn, ...points.map((point) => draw("circle", { cx: x(point.x).toFixed(1), cy: y(point.y).toFixed(1), r: 2.5, class: "dot" }, told(point)))];
}

function bars(points, y, domain, width) {
  const step = (width - FRAME.left - FRAME.right) / points.length;
  const chars = Math.max(1, Math.floor(step / 6.6));
  const zero = y(Math.max(domain[0], Math.min(domain[1], 0)));
  return points.flatMap((point, place) => {
    const x = FRAME.left + place * step;
    const top = Math.min(zero, y(point.y));
    const bar = draw("rect", { x: x + step * 0.1, width: step * 0.8, y: top, height: Math.max(1, Math.abs(y(point.y) - zero)), class: "bar" }, told(point));
    // Where there is no room for each one's name, some have theirs.
    const every = Math.ceil(34 / step);
    return place % every ? [bar] : [bar, below(cut(point.label, Math.max(chars * every, 2)), x + step / 2, HEIGHT)];
  });
}

const told = (point) => draw("title", {}, `${point.label}: ${point.y}`);

function labels(points, kind, [low, high], x, width) {
  if (kind === "number") return ticksBetween(low, high, Math.max(2, Math.floor(width / 110))).map((tick) => below(count(tick), x(tick), HEIGHT));
  if (kind === "text") {
    const every = Math.ceil(points.length / Math.max(1, Math.floor(width / 90)));
    return points.filter((_, place) => place % every === 0).map((point) => below(cut(point.label, 12), x(point.x), HEIGHT));
  }
  const most = Math.max(2, Math.floor(width / 130));
  return Array.from({ length: most }, (_, place) => {
    const at = low + ((high - low) * place) / (most - 1);
    const iso = new Date(at).toISOString();
    const text = high - low > 3 * 86400_000 ? iso.slice(0, 10) : iso.slice(5, 16).replace("T", " ");
    return below(text, x(at), HEIGHT, place === 0 ? "start" : place === most - 1 ? "end" : "middle");
  });
}

function spanOf(values) {
  const [low, high] = values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
  return low < high ? [low, high] : [low - 1, high + 1];
}

function pointOf(across, up, kind, place) {
  if (!up || !isNumber(up)) return [];
  const label = across ? across.text : "null";
  if (kind === "text") return [{ x: place, y: Number(up.text), label }];
  const x = across ? (kind === "time" ? timeOf(across.text) : Number(across.text)) : NaN;
  return Number.isFinite(x) && Number.isFinite(Number(up.text)) ? [{ x, y: Number(up.text), label }] : [];
}

// A time without an offset is drawn as it stands there.
const timeOf = (text) => Date.parse(/[Z]$|[T ].*[+-]\d\d(:?\d\d)?$/.test(text) ? text.replace(" ", "T") : `${text.replace(" ", "T")}${text.length > 10 ? "Z" : ""}`);

function kindOf(rows, place) {
  const some = rows.slice(0, LOOKED_AT).map((row) => row[place]).filter((value) => value);
  if (some.length && some.every(isNumber)) return "number";
  return some.length && some.every((value) => DAY.test(value.text)) ? "time" : "text";
}

function select(label, options = []) {
  const made = make("select", { id: freshId("axis") }, ...options.map((name) => make("option", {}, name)));
  made.dataset.label = label;
  return made;
}

function offer(made, names, places) {
  made.replaceChildren(...places.map((place) => make("option", { value: String(place), textContent: cut(names[place], 60) })));
}
