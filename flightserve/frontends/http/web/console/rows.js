// A table whose cells are written where they change, so that what somebody reads or marks in it stays.
import { freshId, make } from "./elements.js";

export class Rows {
  #rows = new Map();
  #body = make("tbody");

  #kinds;

  // `columns`: each one's name, and whether it is "short", "long" or a "number".
  constructor(title, columns) {
    this.#kinds = columns.map(([, kind]) => kind);
    const id = freshId("rows");
    const head = make("tr", {}, ...columns.map(([name, kind]) => make("th", { scope: "col", textContent: name, className: kind })));
    const table = make("table", { "aria-labelledby": id }, make("thead", {}, head), this.#body);
    this.element = make("div", { className: "card" }, make("h2", { id, textContent: title }),
      make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-labelledby": id }, table));
  }

  // `rows`: each with its key and its cells, which are texts or {text, className}.
  write(rows) {
    const gone = new Set(this.#rows.keys());
    let before = null;
    for (const [key, cells] of rows) {
      gone.delete(key);
      let row = this.#rows.get(key);
      if (!row) this.#rows.set(key, row = make("tr", {}, ...cells.map(() => make("td"))));
      cells.forEach((cell, place) => write(row.children[place], cell, this.#kinds[place]));
      const place = before ? before.nextSibling : this.#body.firstChild;
      if (row !== place) this.#body.insertBefore(row, place);
      before = row;
    }
    for (const key of gone) {
      this.#rows.get(key).remove();
      this.#rows.delete(key);
    }
  }
}

function write(cell, given, kind) {
  const { text, className = "" } = typeof given === "string" ? { text: given } : given;
  const classes = `${kind} ${className}`.trim();
  if (cell.textContent !== text) cell.textContent = text;
  if (cell.className !== classes) cell.className = classes;
}
