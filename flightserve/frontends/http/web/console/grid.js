// A result as a table of which only the rows in sight are drawn. Arrow keys go from cell to cell; what the cell that one
// is at has in full stands below.
import { freshId, make } from "./elements.js";

const ROW_PX = 28;
const BEYOND = 12;
// Of a wider table the other columns are not drawn.
export const COLUMNS_MAX = 200;
// What a cell shows, and the field below it.
const CELL_CHARS_MAX = 500;
const FULL_CHARS_MAX = 100_000;
const [WIDTH_MIN, WIDTH_MAX, CHAR_PX] = [64, 380, 7.8];
const ROWS_MEASURED = 60;

export class Grid {
  #names = [];
  #rows = [];
  #at = null;
  #from = 0;
  #measured = 0;
  #frame = 0;
  #columns = make("colgroup");
  #head = make("thead");
  #body = make("tbody");
  #before = make("td");
  #after = make("td");
  #id = freshId("cell");

  constructor() {
    this.table = make("table", { role: "grid", ariaLabel: "Result", tabIndex: 0 }, this.#columns, this.#head, this.#body);
    this.full = make("pre", { hidden: true, tabIndex: 0, ariaLabel: "The cell in full" });
    this.cut = make("p", { className: "hint" });
    this.scroll = make("div", { className: "grid", hidden: true }, this.table);
    this.element = make("div", {}, this.scroll, this.full, this.cut);
    this.scroll.addEventListener("scroll", () => this.#soon(), { passive: true });
    this.table.addEventListener("keydown", (event) => this.#key(event));
    this.table.addEventListener("click", (event) => this.#click(event));
  }

  clear() {
    this.#names = [];
    this.#rows = [];
    this.#at = null;
    this.#measured = 0;
    this.scroll.hidden = this.full.hidden = true;
    this.cut.textContent = "";
    this.scroll.scrollTop = this.scroll.scrollLeft = 0;
  }

  // The columns' names; rows come by `add`.
  begin(names) {
    this.#names = names.slice(0, COLUMNS_MAX);
    if (names.length > COLUMNS_MAX) this.cut.textContent = `The first ${COLUMNS_MAX} of ${names.length.toLocaleString("en")} columns; a download has all.`;
    this.#head.replaceChildren(make("tr", { "aria-rowindex": "1" },
      ...this.#names.map((name) => make("th", { scope: "col", textContent: name, title: name }))));
    this.table.setAttribute("aria-colcount", String(this.#names.length));
    this.scroll.hidden = false;
    this.#soon();
  }

  // `rows` are all there are by now, of `CsvReader`; they may grow.
  show(rows) {
    this.#rows = rows;
    this.table.setAttribute("aria-rowcount", String(rows.length + 1));
    if (this.#measured < ROWS_MEASURED && rows.length > this.#measured) this.#measure();
    this.#soon();
  }

  #measure() {
    this.#measured = this.#rows.length;
    const some = this.#rows.slice(0, ROWS_MEASURED);
    const widths = this.#names.map((name, place) => {
      const chars = Math.max(name.length + 1, ...some.map((row) => row[place]?.text.length ?? 4));
      return Math.round(Math.min(WIDTH_MAX, Math.max(WIDTH_MIN, chars * CHAR_PX + 22)));
    });
    this.#columns.replaceChildren(...widths.map((width) => {
      const column = make("col");
      column.style.width = `${width}px`;
      return column;
    }));
    this.table.style.width = `${widths.reduce((sum, width) => sum + width, 0)}px`;
  }

  #soon() {
    if (!this.#frame) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    const height = this.scroll.clientHeight || 400;
    const from = Math.max(0, Math.floor(this.scroll.scrollTop / ROW_PX) - BEYOND);
    const until = Math.min(this.#rows.length, from + Math.ceil(height / ROW_PX) + 2 * BEYOND);
    this.#from = from;
    const rows = [];
    for (let place = from; place < until; place++) rows.push(this.#row(this.#rows[place], place));
    this.#before.style.height = `${from * ROW_PX}px`;
    this.#after.style.height = `${(this.#rows.length - until) * ROW_PX}px`;
    const space = (cell) => make("tr", { className: "space", "aria-hidden": "true" }, cell);
    this.#body.replaceChildren(...(from ? [space(this.#before)] : []), ...rows, ...(until < this.#rows.length ? [space(this.#after)] : []));
    this.#mark();
  }

  #row(row, place) {
    return make("tr", { "aria-rowindex": String(place + 2) }, ...this.#names.map((_, column) => cellOf(row[column])));
  }

  #click(event) {
    const cell = event.target.closest("td");
    const row = cell?.parentElement.getAttribute("aria-rowindex");
    if (row) this.#go(Number(row) - 2, cell.cellIndex);
  }

  #key(event) {
    if (!this.#rows.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const [row, column] = this.#at ?? [-1, 0];
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / ROW_PX) - 2);
    const to = {
      ArrowDown: [row + 1, column], ArrowUp: [row - 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      PageDown: [row + page, column], PageUp: [row - page, column], Home: [row, 0], End: [row, this.#names.length - 1],
    }[event.key];
    if (!to) return;
    event.preventDefault();
    this.#go(...to);
  }

  #go(row, column) {
    this.#at = [Math.max(0, Math.min(this.#rows.length - 1, row)), Math.max(0, Math.min(this.#names.length - 1, column))];
    const top = this.#at[0] * ROW_PX;
    const { scrollTop, clientHeight } = this.scroll;
    if (top < scrollTop) this.scroll.scrollTop = top;
    // The head stands before the rows.
    if (top + 2 * ROW_PX > scrollTop + clientHeight) this.scroll.scrollTop = top + 2 * ROW_PX - clientHeight + 16;
    this.#draw();
    this.#body.querySelector(".active")?.scrollIntoView({ block: "nearest", inline: "nearest" });
    const text = this.#rows[this.#at[0]]?.[this.#at[1]]?.text;
    this.full.textContent = text === undefined ? "null" : text.slice(0, FULL_CHARS_MAX);
    this.full.hidden = false;
  }

  // The cell that one is at, if it is drawn.
  #mark() {
    this.table.removeAttribute("aria-activedescendant");
    if (!this.#at) return;
    const row = this.#body.querySelector(`tr[aria-rowindex="${this.#at[0] + 2}"]`);
    const cell = row?.children[this.#at[1]];
    if (!cell) return;
    cell.classList.add("active");
    cell.id = this.#id;
    this.table.setAttribute("aria-activedescendant", this.#id);
  }
}

function cellOf(value) {
  if (value === null || value === undefined) return make("td", { className: "null", textContent: "null" });
  const shown = value.text.length > CELL_CHARS_MAX ? `${value.text.slice(0, CELL_CHARS_MAX)}\u2026` : value.text;
  return make("td", { textContent: shown, className: isNumber(value) ? "number" : "" });
}

export const isNumber = (value) => !value.isText && /^-?(\d|\.\d)/.test(value.text) && !Number.isNaN(Number(value.text));
