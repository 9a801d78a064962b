// Methods and pipelines: what each takes and gives, a form that calls it, and the same call for other clients.
import { freshId, make, prose } from "./elements.js";
import { Fields } from "./fields.js";
import { curlLine, grpcLines, pythonLines } from "./lines.js";
import { address, ask, post, readText } from "./requests.js";
import { Running } from "./running.js";

// Of an answer, what is shown. A method may stream without end.
const SHOWN_CHARS_MAX = 100_000;

export class CallPart {
  title = "Methods";
  needs = "call";
  element = make("div", {}, make("p", { role: "status", textContent: "Loading..." }));
  #begun = false;
  // What is known of the app, where one may see it.
  #app = { addresses: {}, closed: false };
  #made = null;

  constructor(me) {
    this.#app.closed = me.closed;
  }

  update({ addresses }) {
    this.#app.addresses = addresses;
    this.#made?.write();
  }

  async open() {
    if (this.#begun) return;
    this.#begun = true;
    try {
      const { deployments } = await (await ask("v1/deployments")).json();
      this.#show(deployments);
    } catch (error) {
      this.#begun = false;
      this.element.replaceChildren(make("p", { className: "card error", role: "alert", textContent: `Methods are not shown: ${error.message}` }));
    }
  }

  #show(deployments) {
    const all = deployments.map(({ name, methods }) => [name, methods.filter((method) => !method.internal)]).filter(([, methods]) => methods.length);
    if (!all.length) {
      this.element.replaceChildren(make("p", { className: "card", textContent: "There is nothing to call here." }));
      return;
    }
    const choice = make("select", { id: freshId("method") }, ...all.map(([name, methods]) =>
      make("optgroup", { label: name }, ...methods.map((method) => make("option", { value: method.path, textContent: `${name}.${method.method}` })))));
    const place = make("div");
    const byPath = new Map(all.flatMap(([, methods]) => methods.map((method) => [method.path, method])));
    choice.onchange = () => {
      this.#made?.stop();
      this.#made = new Call(byPath.get(choice.value), this.#app);
      place.replaceChildren(...this.#made.elements);
    };
    this.element.replaceChildren(make("div", { className: "card" }, make("h2", { textContent: "Methods and pipelines" }),
      make("label", { htmlFor: choice.id, textContent: "Method" }), choice), place);
    choice.onchange();
  }
}

class Call {
  #method;
  #app;
  #running = new Running();
  #body;
  #answer = make("pre", { hidden: true, tabIndex: 0, ariaLabel: "Answer" });
  #where = make("p", { className: "hint" });
  #lines = { curl: block("curl"), Python: block("Python"), gRPC: block("gRPC in Python") };

  constructor(method, app) {
    this.#method = method;
    this.#app = app;
    const { body: sample } = method.sample;
    this.#body = make("textarea", { id: freshId("body"), spellcheck: false, autocomplete: "off", placeholder: '{"columns": {"name": [value, ...]}}',
      value: sample ? JSON.stringify(sample) : "" });
    this.#body.oninput = () => this.write();
    const written = (body) => {
      this.#body.value = body;
      this.write();
    };
    const fields = method.input_schema?.length ? [new Fields(method.input_schema, sample?.columns, written).element] : [];
    const hint = make("p", { className: "hint", id: freshId("hint"), textContent: this.#about(fields.length, sample) });
    this.#body.setAttribute("aria-describedby", hint.id);
    const byHand = [make("label", { htmlFor: this.#body.id, textContent: "Body" }), hint, this.#body];
    const form = make("form", { className: "card" }, make("h2", { textContent: `${method.deployment}.${method.method}` }), make("p", {}, ...prose(method.doc)),
      ...fields, ...(fields.length ? [make("details", {}, make("summary", { textContent: "As JSON" }), ...byHand)] : byHand),
      make("div", { className: "actions" }, make("button", { type: "submit", className: "main", textContent: "Send" }), this.#running.cancel,
        make("span", { className: "hint", textContent: "Ctrl+Enter sends, Escape cancels" })),
      this.#running.said, this.#running.error, this.#answer);
    form.onsubmit = (event) => {
      event.preventDefault();
      this.#running.run((signal) => this.#send(signal));
    };
    form.onkeydown = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
      if (event.key === "Escape") this.stop();
    };
    const shown = make("section", { className: "card", ariaLabel: "The same call elsewhere" }, make("h2", { textContent: "The same call elsewhere" }), this.#where,
      ...Object.values(this.#lines).map(({ element }) => element));
    this.elements = [form, shown, ...described(method)];
    this.write();
  }

  stop() {
    this.#running.stop();
  }

  #about(fields, sample) {
    if (fields) return "What the form writes; it may be changed by hand.";
    if (sample) return this.#method.sample.declared ? "The method's own example." : "Made from the input's schema.";
    return `There is no sample. ${this.#method.sample.why}`;
  }

  async #send(signal) {
    this.#answer.hidden = true;
    const response = await post(this.#method.path, this.#body.value, this.#accept, signal);
    let text = "";
    await readText(response, (piece) => {
      text += piece;
      this.#answer.hidden = false;
      this.#answer.textContent = text.slice(0, SHOWN_CHARS_MAX);
      return text.length <= SHOWN_CHARS_MAX;
    });
    const cut = text.length > SHOWN_CHARS_MAX ? `, the first ${SHOWN_CHARS_MAX.toLocaleString("en")} characters` : "";
    return `${response.status}${cut}`;
  }

  get #accept() {
    return this.#method.streaming ? "application/x-ndjson" : "application/json";
  }

  // The lines, as the body is now.
  write() {
    const { deployment, method, path, input_schema: schema } = this.#method;
    const { addresses, closed } = this.#app;
    // All protocols are encrypted or none; a proxy may be before this one.
    const secure = (addresses.http ?? location.href).startsWith("https:");
    const call = {
      deployment, method, schema, body: this.#body.value, url: String(address(path)), accept: this.#accept,
      signed: closed, secure,
      flight: reached(addresses.flight ?? `${secure ? "grpc+tls" : "grpc"}://127.0.0.1:8815`), grpc: reached(addresses.grpc ?? "127.0.0.1:50051"),
    };
    this.#where.textContent = [
      addresses.flight || addresses.grpc ? "" : "The addresses of Flight and gRPC are the usual ones: those of this app are not known here.",
      secure ? "The lines trust the CAs that your system does; for another: --cacert, tls_roots, root_certificates." : "",
      closed ? "Your token is taken from the environment, TOKEN." : "",
    ].join(" ").trim();
    this.#lines.curl.write(curlLine(call));
    const wrong = problemOf(call.body);
    this.#lines.Python.write(wrong || pythonLines(call));
    this.#lines.gRPC.write(wrong || grpcLines(call));
  }
}

// Frontends may listen on all addresses, which is none to connect to.
const reached = (address) => address.replace(/(^|\/)(0\.0\.0\.0|\[::\])(?=:)/, (_, before) => before + location.hostname);

function problemOf(body) {
  try {
    const { columns, rows } = JSON.parse(body);
    if ((columns && typeof columns === "object" && Object.values(columns).every(Array.isArray)) || Array.isArray(rows)) return "";
  } catch {
    // Said below.
  }
  return "# The body is no JSON of columns or rows.";
}

function block(title) {
  const text = make("pre", { tabIndex: 0, ariaLabel: `The call with ${title}` });
  const copy = make("button", { type: "button", className: "plain", textContent: "Copy", ariaLabel: `Copy the call with ${title}`, hidden: !navigator.clipboard });
  copy.onclick = async () => {
    await navigator.clipboard.writeText(text.textContent);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  };
  const write = (words) => { if (text.textContent !== words) text.textContent = words; };
  return { element: make("div", {}, make("h3", {}, `${title} `, copy), text), write };
}

function described(method) {
  const kinds = [
    method.row_aligned ? "One row for each row." : method.delimited ? "Any number of rows for each, marked by rid." : "Any number of rows.",
    method.streaming ? "It streams." : "", method.idempotent ? "" : "It is not idempotent: it is never sent twice.", method.strict ? "It takes columns of these very types alone." : "",
  ];
  return [make("div", { className: "card" }, make("h2", { textContent: "What it takes and gives" }), make("p", { textContent: kinds.filter(Boolean).join(" ") }),
    schemaTable("Takes", method.input_schema), schemaTable("Gives", method.output_schema))];
}

function schemaTable(title, declared) {
  if (!declared) return make("p", {}, make("strong", { textContent: title }), " what is not declared.");
  const rows = declared.map((field) => make("tr", {}, make("td", { textContent: field.name }), make("td", { textContent: field.type }),
    make("td", { textContent: field.nullable ? "nullable" : "required" })));
  const head = make("tr", {}, ...["Column", "Type", ""].map((name) => (name ? make("th", { scope: "col", textContent: name }) : make("td"))));
  return make("div", {}, make("h3", { textContent: title }), make("table", { ariaLabel: title }, make("thead", {}, head), make("tbody", {}, ...rows)));
}
