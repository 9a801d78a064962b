// SQL: a statement, its rows as they come, and all of them as a file.
import { tablesOf } from "./catalogue.js";
import { Chart } from "./chart.js";
import { CsvReader } from "./csv.js";
import { Editor } from "./editor.js";
import { freshId, make } from "./elements.js";
import { Grid } from "./grid.js";
import { Past } from "./past.js";
import { ask, post, readText } from "./requests.js";
import { Running } from "./running.js";

export const ROWS_MAX = 10_000;
// Of rows with long texts fewer are kept.
const CHARS_MAX = 50_000_000;
const FORMS = {
  CSV: ["text/csv", "csv"],
  Parquet: ["application/vnd.apache.parquet", "parquet"],
  Arrow: ["application/vnd.apache.arrow.stream", "arrows"],
};
const FIRST = "SELECT table_name, column_name, data_type\nFROM information_schema.columns\nORDER BY ALL";

export class SqlPart {
  needs = "query";
  title = "SQL";
  element = make("div", {}, make("p", { role: "status", textContent: "Loading..." }));
  #begun = false;

  async open() {
    if (this.#begun) return;
    this.#begun = true;
    try {
      const { deployments } = await (await ask("v1/deployments")).json();
      const warehouses = deployments.filter((each) => each.kind === "sql").map((each) => each.name);
      this.element.replaceChildren(...(warehouses.length ? new SqlForm(warehouses).elements
        : [make("p", { className: "card", textContent: "There are no tables here: none of the deployments is a warehouse." })]));
    } catch (error) {
      this.#begun = false;
      this.element.replaceChildren(make("p", { className: "card error", role: "alert", textContent: `SQL is not shown: ${error.message}` }));
    }
  }
}

class SqlForm {
  #running = new Running();
  #grid = new Grid();
  #chart = new Chart();
  #plan = make("pre", { className: "plan", hidden: true, tabIndex: 0, ariaLabel: "Plan" });
  #tables = make("ul", { className: "tables", tabIndex: 0, ariaLabel: "Tables and their columns" });
  #run = make("button", { type: "submit", className: "main", textContent: "Run" });
  #past = new Past((statement) => this.#put(statement));
  #hint = make("span", { className: "hint", id: freshId("hint"), textContent: "Ctrl+Enter runs, Escape cancels, Ctrl+Space completes" });
  #editor = new Editor(this.#past.newest ?? FIRST, this.#hint.id);
  #parameters = make("input", { type: "text", id: freshId("parameters"), spellcheck: false, autocomplete: "off",
    placeholder: '["UA", 1]  or  {"carrier": "UA"}' });
  #warehouse;

  constructor(warehouses) {
    this.#warehouse = make("select", { id: freshId("warehouse") }, ...warehouses.map((name) => make("option", {}, name)));
    this.#warehouse.onchange = () => this.#learn();
    const which = make("div", { hidden: warehouses.length < 2 }, label("Warehouse", this.#warehouse), this.#warehouse);
    const form = make("select", { ariaLabel: "Format of the download" }, ...Object.keys(FORMS).map((name) => make("option", {}, name)));
    const keep = make("button", { type: "button", textContent: "Download" });
    const explain = make("button", { type: "button", textContent: "Explain" });
    const made = make("form", { className: "card" }, make("h2", { textContent: "SQL" }),
      make("div", { className: "split" },
        make("div", {}, which, label("Statement", this.#editor.text), this.#editor.element, this.#editor.said,
          label("Parameters, as JSON", this.#parameters), this.#parameters,
          make("div", { className: "actions" }, this.#run, this.#running.cancel, explain, keep, form, this.#hint)),
        make("div", {}, make("h3", { textContent: "Tables" }), this.#tables)),
      this.#running.said, this.#running.error, this.#plan, this.#chart.element, this.#grid.element);
    made.onsubmit = (event) => {
      event.preventDefault();
      this.#start((signal) => this.#show(signal));
    };
    explain.onclick = () => this.#start((signal) => this.#explain(signal));
    keep.onclick = () => this.#running.run((signal) => this.#keep(signal, form.value));
    this.#running.cancel.onclick = () => {
      this.#running.stop();
      this.#run.focus();
    };
    made.onkeydown = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) made.requestSubmit();
      if (event.key === "Escape") this.#running.stop();
    };
    this.elements = [made, this.#past.element];
    this.#learn();
  }

  #put(statement) {
    this.#editor.text.value = statement;
    this.#editor.text.focus();
    scrollTo({ top: 0 });
  }

  #start(work) {
    this.#editor.close();
    this.#past.add(this.#editor.text.value);
    this.#grid.clear();
    this.#chart.clear();
    this.#plan.hidden = true;
    this.#running.run(work);
  }

  #body(before = "") {
    const asked = { query: before + this.#editor.text.value, warehouse: this.#warehouse.value };
    const given = this.#parameters.value.trim();
    if (given) asked.parameters = parsed(given);
    return JSON.stringify(asked);
  }

  // Rows are shown as they come. The query ends with the last row that is read.
  async #show(signal) {
    const response = await post("v1/sql", this.#body(), FORMS.CSV[0], signal);
    const reader = new CsvReader();
    const rows = [];
    let names = null;
    let chars = 0;
    await readText(response, (piece) => {
      chars += piece.length;
      for (const row of reader.push(piece)) {
        if (names) rows.push(row);
        else this.#grid.begin((names = row.map((each) => each?.text ?? "")));
      }
      if (rows.length > ROWS_MAX) rows.length = ROWS_MAX + 1;
      this.#grid.show(rows.length > ROWS_MAX ? rows.slice(0, ROWS_MAX) : rows);
      return rows.length <= ROWS_MAX && chars <= CHARS_MAX;
    });
    const more = rows.length > ROWS_MAX || chars > CHARS_MAX;
    if (rows.length > ROWS_MAX) rows.length = ROWS_MAX;
    this.#grid.show(rows);
    this.#chart.show(names ?? [], rows);
    if (more) return `The first ${rows.length.toLocaleString("en")} rows (there are more; a download has all)`;
    return `${rows.length.toLocaleString("en")} ${rows.length === 1 ? "row" : "rows"}`;
  }

  async #explain(signal) {
    const before = /^\s*explain\b/i.test(this.#editor.text.value) ? "" : "EXPLAIN ";
    const response = await post("v1/sql", this.#body(before), "application/json", signal);
    const { rows } = await response.json();
    this.#plan.textContent = rows.map((row) => Object.values(row).at(-1)).join("\n");
    this.#plan.hidden = false;
    return "The plan";
  }

  async #keep(signal, form) {
    const [accept, ending] = FORMS[form];
    const response = await post("v1/sql", this.#body(), accept, signal);
    const url = URL.createObjectURL(await response.blob());
    make("a", { href: url, download: `query.${ending}` }).click();
    URL.revokeObjectURL(url);
    return `Downloaded query.${ending}`;
  }

  async #learn() {
    const warehouse = this.#warehouse.value;
    let tables = [];
    try {
      tables = await tablesOf(warehouse);
    } catch (error) {
      this.#tables.replaceChildren(make("li", { className: "hint", textContent: `They are not known: ${error.message}` }));
    }
    if (warehouse !== this.#warehouse.value) return;
    this.#editor.tables = tables;
    if (tables.length) this.#tables.replaceChildren(...tables.map((table) => this.#table(table)));
    else if (!this.#tables.firstChild) this.#tables.replaceChildren(make("li", { className: "hint", textContent: "None." }));
  }

  #table({ name, columns }) {
    const insert = (text, about) => {
      const made = make("button", { type: "button", className: "plain", textContent: text, title: `Put ${text} into the statement` });
      made.onclick = () => this.#editor.insert(text);
      return make("li", {}, made, about ? make("span", { className: "hint", textContent: ` ${about}` }) : "");
    };
    const inside = make("ul");
    const all = make("details", {}, make("summary", { textContent: name }), inside);
    // Of many tables most are never opened.
    all.ontoggle = () => {
      if (all.open && !inside.firstChild) inside.replaceChildren(insert(name, "the table"), ...columns.map((column) => insert(column.name, column.type)));
    };
    return make("li", {}, all);
  }
}

const label = (text, field) => make("label", { htmlFor: field.id, textContent: text });

function parsed(given) {
  try {
    return JSON.parse(given);
  } catch (error) {
    throw new Error(`The parameters are no JSON: ${error.message}`);
  }
}
