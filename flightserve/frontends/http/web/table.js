// A result's rows as a table.
import { make } from "./elements.js";

const CELL_CHARS_MAX = 500;

// `rows` are those of `CsvReader`, `names` the columns'.
export function table(names, rows, label) {
  const heads = names.map((name) => make("th", { scope: "col", textContent: name }));
  const body = make("tbody");
  for (const row of rows) body.append(make("tr", {}, ...row.map(cell)));
  return make("table", { ariaLabel: label }, make("thead", {}, make("tr", {}, ...heads)), body);
}

function cell(value) {
  if (value === null) return make("td", { className: "null", textContent: "null" });
  const long = value.text.length > CELL_CHARS_MAX;
  const shown = long ? `${value.text.slice(0, CELL_CHARS_MAX)}\u2026` : value.text;
  const isNumber = !value.isText && /^[-\d]/.test(value.text);
  return make("td", { textContent: shown, className: isNumber ? "number" : "" });
}
