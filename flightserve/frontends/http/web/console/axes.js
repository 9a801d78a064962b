// Scales and their marks.
import { count } from "./figures.js";
import { draw, words } from "./svg.js";

export const FRAME = { left: 52, right: 10, top: 8, bottom: 24 };

// Round numbers between two, about so many.
export function ticksBetween(low, high, about) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, about);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((each) => each * power >= rough) ?? 10);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9 && ticks.length <= 2 * about + 2; tick += step) ticks.push(Number(tick.toPrecision(12)));
  return ticks;
}

export const scale = (low, high, from, to) => (value) => (high > low ? from + ((value - low) / (high - low)) * (to - from) : (from + to) / 2);

// Values from the least to the greatest, with 0 in it where that is near, and a round end.
export function domainOf(values, fromZero = true) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (low > high) return [0, 1];
  if (fromZero && low >= 0) low = 0;
  if (fromZero && high <= 0) high = 0;
  if (low === high) return low === 0 ? [0, 1] : [Math.min(0, low), Math.max(0, high)];
  const ticks = ticksBetween(low, high, 4);
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : high - low;
  return [low === 0 ? 0 : Math.floor(low / step) * step, Math.ceil(high / step - 1e-9) * step];
}

// Lines across at round values, with their numbers at the left.
export function acrossAt([low, high], y, width) {
  return ticksBetween(low, high, 4).flatMap((tick) => {
    const label = words(figure(tick), FRAME.left - 6, y(tick) + 4, "small");
    label.setAttribute("text-anchor", "end");
    return [draw("line", { x1: FRAME.left, x2: width - FRAME.right, y1: y(tick), y2: y(tick), class: "rule" }), label];
  });
}

export function below(text, x, height, anchor = "middle") {
  const label = words(text, x, height - 6, "small");
  label.setAttribute("text-anchor", anchor);
  return label;
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const figure = (value) => (Math.abs(value) >= 10_000 ? compact.format(value) : count(value));
