// A method: what it takes and gives, and a form that calls it.
import { freshId, make, prose } from "./elements.js";
import { address, post, readText } from "./requests.js";
import { Running } from "./running.js";

// Of an answer, what is shown. A method may stream without end.
const SHOWN_CHARS_MAX = 100_000;

// `byUrl`: a generator may be called by a URL, which is how EventSource asks.
export function methodBlock(method, byUrl) {
  const kinds = [
    method.form,
    method.row_aligned ? "row-aligned"
      : method.delimited ? "any number of rows for each, marked by rid" : "any number of rows",
    method.streaming ? "streaming" : "",
    method.idempotent ? "" : "not idempotent",
  ];
  return make("details", {},
    make("summary", {}, make("span", { className: "name", textContent: `POST ${method.path}` }), " ",
      make("small", { textContent: kinds.filter(Boolean).join(", ") })),
    make("p", {}, ...prose(method.doc)),
    make("div", { className: "pair" }, fields("Input", method.input_schema), fields("Output", method.output_schema)),
    callForm(method, byUrl && method.streaming && method.idempotent));
}

function fields(title, declared) {
  if (!declared) return make("p", {}, make("strong", { textContent: title }), " not declared");
  const rows = declared.map((field) => make("tr", {}, make("td", { textContent: field.name }),
    make("td", { textContent: field.type }), make("td", { textContent: field.nullable ? "nullable" : "required" })));
  return make("table", { className: "fields" }, make("caption", { textContent: title }), make("tbody", {}, ...rows));
}

function callForm(method, byUrl) {
  const { body: sample, declared, why } = method.sample;
  const running = new Running();
  const body = make("textarea", { id: freshId("body"), spellcheck: false,
    value: sample ? laidOut(sample) : "", placeholder: '{"columns": {"name": [value, ...]}}' });
  const origin = sample ? (declared ? "The method's own example." : "Made from the input's schema.")
    : `There is no sample. ${why}`;
  const answer = make("pre", { hidden: true, tabIndex: 0, ariaLabel: "Answer" });
  const curl = make("pre", { tabIndex: 0, ariaLabel: "The call for curl" });
  const accept = method.streaming ? "application/x-ndjson" : "application/json";
  const events = make("pre", { tabIndex: 0, ariaLabel: "The call for a page" });
  const write = () => {
    curl.textContent = curlOf(method.path, body.value, accept);
    events.textContent = eventSourceOf(method.path, body.value);
  };
  write();
  body.oninput = write;

  const call = async (signal) => {
    answer.hidden = true;
    const response = await post(method.path, body.value, accept, signal);
    let text = "";
    await readText(response, (piece) => {
      text += piece;
      answer.hidden = false;
      answer.textContent = text.slice(0, SHOWN_CHARS_MAX);
      return text.length <= SHOWN_CHARS_MAX;
    });
    const cut = text.length > SHOWN_CHARS_MAX ? `, the first ${SHOWN_CHARS_MAX.toLocaleString("en")} characters` : "";
    return `${response.status}${cut}`;
  };
  const made = make("form", {},
    make("label", { htmlFor: body.id, textContent: "Request body" }),
    make("p", { className: "hint", textContent: origin, id: freshId("hint") }), body,
    make("div", { className: "actions" }, make("button", { type: "submit", textContent: "Send" }), running.cancel),
    running.said, running.error, answer,
    make("details", {}, make("summary", { textContent: "With curl" }), curl),
    ...(byUrl ? [make("details", {}, make("summary", { textContent: "In a page" }), events)] : []));
  body.setAttribute("aria-describedby", made.querySelector(".hint").id);
  made.onsubmit = (event) => {
    event.preventDefault();
    running.run(call);
  };
  made.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) made.requestSubmit();
    if (event.key === "Escape") running.stop();
  };
  return made;
}

// A column a line.
function laidOut({ columns }) {
  const lines = Object.entries(columns).map(([name, values]) => `${JSON.stringify(name)}: ${JSON.stringify(values)}`);
  return `{"columns": {\n  ${lines.join(",\n  ")}\n}}`;
}

function eventSourceOf(path, body) {
  const text = JSON.stringify(body.replace(/\s*\n\s*/g, " "));
  return `const events = new EventSource("${address(path)}?body=" + encodeURIComponent(${text}));
events.onmessage = ({ data }) => console.log(JSON.parse(data));
events.addEventListener("end", () => events.close());
events.addEventListener("error", ({ data }) => { events.close(); console.error(data ?? "the connection broke"); });`;
}

function curlOf(path, body, accept) {
  const text = body.replace(/\s*\n\s*/g, " ").replaceAll("'", "'\\''");
  return `curl -s '${address(path)}' -H 'content-type: application/json' -H 'accept: ${accept}' -d '${text}'`;
}
