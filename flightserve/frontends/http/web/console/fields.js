// A form of a method's input: a field for each column, of some rows. It writes the body that is sent, which can be
// written by hand as well.
import { freshId, make } from "./elements.js";

const ROWS_MAX = 20;
const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

export class Fields {
  #schema;
  #rows = [];
  #sets = make("div");
  #more = make("button", { type: "button", textContent: "Add a row" });
  #less = make("button", { type: "button", textContent: "Remove the last row" });
  #changed;

  // `schema`: the input's fields; `sample`: columns of values to begin with, or null. `changed(body)`: what to send.
  constructor(schema, sample, changed) {
    this.#schema = schema;
    this.#changed = changed;
    this.element = make("div", {}, this.#sets, make("div", { className: "actions" }, this.#more, this.#less));
    const rows = sample && Object.values(sample)[0] ? Math.min(ROWS_MAX, Object.values(sample)[0].length) : 1;
    for (let place = 0; place < rows; place++) this.#add((name) => sample?.[name]?.[place]);
    this.#more.onclick = () => {
      this.#add(() => undefined);
      this.#write();
      this.#rows.at(-1).set.querySelector("input, textarea, select")?.focus();
    };
    this.#less.onclick = () => {
      this.#rows.pop().set.remove();
      this.#write();
    };
    this.element.addEventListener("input", () => this.#write());
    this.#write();
  }

  #add(valueOf) {
    const fields = this.#schema.map((field) => new Field(field, valueOf(field.name)));
    const set = make("fieldset", {}, make("legend", { textContent: `Row ${this.#rows.length + 1}` }),
      make("div", { className: "fields" }, ...fields.map((field) => field.element)));
    this.#rows.push({ fields, set });
    this.#sets.append(set);
  }

  #write() {
    this.#more.disabled = this.#rows.length >= ROWS_MAX;
    this.#less.disabled = this.#rows.length <= 1;
    const columns = this.#schema.map(({ name }, place) => `  ${JSON.stringify(name)}: [${this.#rows.map(({ fields }) => fields[place].json()).join(", ")}]`);
    this.#changed(`{"columns": {\n${columns.join(",\n")}\n}}`);
  }
}

class Field {
  #kind;
  #input;
  #none = null;

  constructor({ name, type, nullable }, value) {
    this.#kind = kindOf(type);
    const id = freshId("field");
    const given = value === undefined || value === null ? "" : this.#kind === "json" ? JSON.stringify(value) : String(value);
    this.#input = INPUTS[this.#kind](id, given);
    const label = make("label", { htmlFor: id }, name, " ", make("small", { textContent: nullable ? type : `${type}, required` }));
    const parts = [label, this.#input];
    if (nullable) {
      this.#none = make("input", { type: "checkbox", checked: value === null, id: freshId("none"), ariaLabel: `${name} is null` });
      this.#none.onchange = () => { this.#input.disabled = this.#none.checked; };
      this.#input.disabled = this.#none.checked;
      parts.push(make("label", { className: "check", htmlFor: this.#none.id }, this.#none, " null"));
    }
    this.element = make("div", {}, ...parts);
  }

  // The value as JSON. What is no number, or no JSON, goes as text, of which the service says what is wrong with it.
  json() {
    const text = this.#input.value;
    if (this.#none?.checked) return "null";
    if (this.#kind === "number" && NUMBER.test(text.trim())) return text.trim();
    if (this.#kind === "bool") return text;
    if (this.#kind === "json" && isJson(text)) return text;
    return JSON.stringify(text);
  }
}

const INPUTS = {
  number: (id, value) => make("input", { type: "text", inputMode: "decimal", id, value, autocomplete: "off" }),
  bool: (id, value) => {
    const made = make("select", { id }, make("option", { textContent: "true" }), make("option", { textContent: "false" }));
    made.value = value === "true" ? "true" : "false";
    return made;
  },
  date: (id, value) => make("input", { type: "date", id, value, max: "9999-12-31" }),
  text: (id, value) => make("input", { type: "text", id, value, autocomplete: "off", spellcheck: false }),
  json: (id, value) => make("textarea", { id, value, rows: 2, spellcheck: false, placeholder: "JSON" }),
};

function kindOf(type) {
  if (/^(u?int\d+|float\d*|halffloat|double|decimal\d*\(|duration)/.test(type)) return type.startsWith("decimal") ? "text" : "number";
  if (type.startsWith("bool")) return "bool";
  if (type.startsWith("date32")) return "date";
  if (/^(list|large_list|fixed_size_list|struct|map|union|dense_union|sparse_union)/.test(type)) return "json";
  return "text";
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
