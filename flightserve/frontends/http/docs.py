"""The page at `/docs`: one file, nothing loaded from elsewhere. It reads `/v1/deployments`, shows each method with its
schemas, and sends a call."""

from __future__ import annotations

from typing import Final

PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>flightserve</title>
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
  body { margin: 2rem auto; max-width: 56rem; padding: 0 1rem; }
  h2 { border-bottom: 1px solid #8886; margin-top: 2.5rem; }
  details { border: 1px solid #8886; border-radius: 6px; margin: .75rem 0; padding: .5rem .75rem; }
  summary { cursor: pointer; font-weight: 600; }
  summary small { font-weight: 400; opacity: .75; margin-left: .5rem; }
  table { border-collapse: collapse; margin: .5rem 0; }
  td, th { border: 1px solid #8886; padding: .15rem .6rem; text-align: left; }
  textarea, pre { width: 100%; box-sizing: border-box; font: 14px/1.4 ui-monospace, monospace; }
  textarea { min-height: 6rem; }
  pre { background: #8882; padding: .5rem; overflow: auto; max-height: 24rem; white-space: pre-wrap; }
  button { margin: .5rem 0; padding: .3rem 1rem; }
</style>
<h1>flightserve</h1>
<p>A call is a <code>POST</code> of JSON (<code>{"columns": {...}}</code> or <code>{"rows": [...]}</code>) or of an
Arrow IPC stream (<code>application/vnd.apache.arrow.stream</code>). For machines:
<a href="/openapi.json">openapi.json</a>. State: <a href="/readyz">readyz</a>, <a href="/metrics">metrics</a>.</p>
<section id="sql" hidden>
<h2>SQL</h2>
<p>A query is a <code>POST</code> of <code>{"query": "...", "parameters": [...]}</code> to <code>/v1/sql</code>. The
answer is JSON, NDJSON, CSV, an Arrow stream or a Parquet file, as <code>Accept</code> asks.</p>
</section>
<main id="deployments">Loading...</main>
<script>
const element = (name, attributes, ...children) => {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
};
const sampleOf = (type) => /^(u?int|duration)/.test(type) ? 1 : /^(float|double|half)/.test(type) ? 1.5
  : type === "bool" ? true : /^timestamp.*tz=/.test(type) ? "2024-01-01T00:00:00Z"
  : /^timestamp/.test(type) ? "2024-01-01T00:00:00" : /^date/.test(type) ? "2024-01-01"
  : /^time/.test(type) ? "12:00:00" : /^decimal/.test(type) ? "1" : /^(list|large_list|map)/.test(type) ? []
  : /^struct/.test(type) ? {} : /binary/.test(type) ? "" : /string|dictionary/.test(type) ? "text" : null;
const fieldsTable = (title, fields) => {
  const block = element("div", {}, element("strong", {textContent: title}));
  if (!fields) { block.append(" not declared"); return block; }
  const rows = fields.map((f) => element("tr", {}, element("td", {textContent: f.name}),
    element("td", {textContent: f.type}), element("td", {textContent: f.nullable ? "nullable" : "required"})));
  block.append(element("table", {}, ...rows));
  return block;
};
const sender = (path, sample, accept) => {
  const body = element("textarea", {value: JSON.stringify(sample, null, 2), spellcheck: false});
  body.setAttribute("aria-label", "request body");
  const answer = element("pre", {hidden: true});
  const send = element("button", {textContent: "Send"});
  send.onclick = async () => {
    const begun = performance.now();
    answer.hidden = false;
    answer.textContent = "...";
    try {
      const response = await fetch(path, {method: "POST", body: body.value,
        headers: {"content-type": "application/json", accept}});
      const text = await response.text();
      const took = (performance.now() - begun).toFixed(1);
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch (_) { shown = text; }
      answer.textContent = `${response.status} in ${took} ms\\n${shown.slice(0, 100000)}`;
    } catch (error) { answer.textContent = String(error); }
  };
  return [body, send, answer];
};
const methodBlock = (method) => {
  const columns = Object.fromEntries((method.input_schema || [{name: "x", type: "double"}])
    .map((f) => [f.name, [sampleOf(f.type)]]));
  const accept = method.streaming ? "application/x-ndjson" : "application/json";
  const kinds = [method.form, method.row_aligned ? "row-aligned"
    : method.delimited ? "any number of rows for each, marked by rid" : "any number of rows",
    method.streaming ? "streaming" : "", method.idempotent ? "" : "not idempotent"].filter(Boolean).join(", ");
  return element("details", {}, element("summary", {}, `POST ${method.path}`, element("small", {textContent: kinds})),
    element("p", {textContent: method.doc}), fieldsTable("Input", method.input_schema),
    fieldsTable("Output", method.output_schema), ...sender(method.path, {columns}, accept));
};
fetch("/v1/deployments").then((response) => response.json()).then(({deployments}) => {
  const main = document.getElementById("deployments");
  const sql = document.getElementById("sql");
  const warehouses = deployments.filter((d) => d.kind === "sql").map((d) => d.name);
  sql.hidden = !warehouses.length;
  if (warehouses.length) {
    sql.append(...sender("/v1/sql", {query: "SELECT $1 + 1 AS answer", parameters: [41], warehouse: warehouses[0]},
      "application/json"));
  }
  main.replaceChildren(...deployments.flatMap((d) => [element("h2", {textContent: `${d.name} ${d.version}`}),
    element("p", {textContent: d.doc}), ...d.methods.map(methodBlock)]));
  if (!deployments.length) main.textContent = "Nothing is deployed.";
}).catch((error) => { document.getElementById("deployments").textContent = String(error); });
</script>
</html>
"""
