// A form that runs SQL: shows the first rows, and keeps all of them as a file.
import { CsvReader } from "./csv.js";
import { freshId, make } from "./elements.js";
import { address, post, readText } from "./requests.js";
import { Running } from "./running.js";
import { table } from "./table.js";

export const ROWS_MAX = 1000;
// Of a wide table fewer rows are shown.
const CELLS_MAX = 50_000;
const FORMS = {
  csv: ["text/csv", "csv"],
  parquet: ["application/vnd.apache.parquet", "parquet"],
  arrow: ["application/vnd.apache.arrow.stream", "arrows"],
  json: ["application/json", "json"],
};

// `warehouses` are names; `query` is what stands there first; `byUrl` says whether a URL may ask, too.
export function sqlForm(warehouses, query, byUrl = false) {
  const running = new Running();
  const text = make("textarea", { value: query, spellcheck: false, autocapitalize: "off", id: freshId("query") });
  const parameters = make("input", { type: "text", id: freshId("parameters"), spellcheck: false,
    placeholder: '["UA", 1]  or  {"carrier": "UA"}', autocomplete: "off" });
  const choice = make("select", { id: freshId("warehouse") }, ...warehouses.map((name) => make("option", {}, name)));
  const which = make("div", { hidden: warehouses.length < 2 }, label("Warehouse", choice), choice);
  const rows = make("div", { className: "rows", tabIndex: 0, role: "region", ariaLabel: "Result" });
  const form = make("select", { ariaLabel: "Format of the download" },
    ...Object.keys(FORMS).map((name) => make("option", {}, name)));
  const run = make("button", { type: "submit", textContent: "Run" });
  const keep = make("button", { type: "button", textContent: "Download" });

  const link = make("a", { textContent: "As a URL", target: "_blank", rel: "noopener", hidden: !byUrl });
  const write = () => { link.href = urlOf(text.value, parameters.value.trim(), warehouses.length > 1 && choice.value); };

  const body = () => {
    const asked = { query: text.value, warehouse: choice.value };
    const given = parameters.value.trim();
    if (given) asked.parameters = parsed(given);
    return JSON.stringify(asked);
  };
  const show = async (signal) => {
    rows.replaceChildren();
    const response = await post("v1/sql", body(), FORMS.csv[0], signal);
    const [names, found, more] = await firstRows(response);
    const said = more ? `The first ${found.length.toLocaleString("en")} rows; there are more. All of them: Download.`
      : `${found.length.toLocaleString("en")} ${found.length === 1 ? "row" : "rows"}`;
    rows.replaceChildren(table(names, found, said));
    return said;
  };
  const download = async (signal) => {
    const [accept, ending] = FORMS[form.value];
    const response = await post("v1/sql", body(), accept, signal);
    const url = URL.createObjectURL(await response.blob());
    make("a", { href: url, download: `query.${ending}` }).click();
    URL.revokeObjectURL(url);
    return `Downloaded query.${ending}`;
  };
  const made = make("form", { className: "sql" },
    label("SQL", text), text,
    label("Parameters, as JSON", parameters), parameters, which,
    make("div", { className: "actions" }, run, running.cancel, keep, form, link,
      make("span", { className: "hint", textContent: "Ctrl+Enter runs, Escape cancels" })),
    running.said, running.error, rows);
  write();
  made.oninput = write;
  made.onsubmit = (event) => {
    event.preventDefault();
    running.run(show);
  };
  keep.onclick = () => running.run(download);
  running.cancel.onclick = () => {
    running.stop();
    run.focus();
  };
  made.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) made.requestSubmit();
    if (event.key === "Escape") running.stop();
  };
  return made;
}

function urlOf(query, parameters, warehouse) {
  const asked = new URLSearchParams({ query });
  if (parameters) asked.set("parameters", parameters);
  if (warehouse) asked.set("warehouse", warehouse);
  const url = address("v1/sql");
  url.search = asked;
  return url;
}

const label = (words, field) => make("label", { htmlFor: field.id, textContent: words });

function parsed(given) {
  try {
    return JSON.parse(given);
  } catch (error) {
    throw new Error(`The parameters are no JSON: ${error.message}`);
  }
}

// The columns' names, the first rows, and whether there are more; the query ends with the last row that is read.
async function firstRows(response) {
  const reader = new CsvReader();
  let names = null;
  let found = [];
  let most = ROWS_MAX;
  await readText(response, (piece) => {
    const rows = reader.push(piece);
    if (names === null && rows.length) {
      names = rows.shift().map((each) => each?.text ?? "");
      most = Math.max(1, Math.min(ROWS_MAX, Math.floor(CELLS_MAX / names.length)));
    }
    found = found.concat(rows);
    return found.length <= most;
  });
  return [names ?? [], found.slice(0, most), found.length > most];
}
