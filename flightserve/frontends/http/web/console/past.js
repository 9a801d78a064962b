// Statements that were run, kept by this browser alone.
import { make } from "./elements.js";

const KEY = "flightserve.console.statements";
const KEPT_MAX = 100;
const CHARS_MAX = 20_000;

export class Past {
  #statements = read();
  #list = make("ul", { className: "past", tabIndex: 0, ariaLabel: "Statements that were run" });
  #use;

  constructor(use) {
    this.#use = use;
    const clear = make("button", { type: "button", className: "plain", textContent: "Forget all" });
    clear.onclick = () => this.#keep([]);
    this.element = make("details", { className: "card" }, make("summary", {}, "History ", make("small", { textContent: "in this browser only" })),
      this.#list, clear);
    this.#write();
    // Another tab ran something, or forgot it.
    addEventListener("storage", ({ key }) => {
      if (key !== KEY && key !== null) return;
      this.#statements = read();
      this.#write();
    });
  }

  get newest() {
    return this.#statements[0];
  }

  add(statement) {
    if (!statement.trim() || statement.length > CHARS_MAX) return;
    this.#keep([statement, ...this.#statements.filter((each) => each !== statement)].slice(0, KEPT_MAX));
  }

  #keep(statements) {
    this.#statements = statements;
    try {
      localStorage.setItem(KEY, JSON.stringify(statements));
    } catch {
      // A browser that keeps nothing, or is full: they are there until the page is left.
    }
    this.#write();
  }

  #write() {
    const rows = this.#statements.map((statement) => {
      const use = make("button", { type: "button", className: "use", textContent: statement });
      use.onclick = () => this.#use(statement);
      const drop = make("button", { type: "button", className: "plain", textContent: "Forget", ariaLabel: `Forget ${statement.slice(0, 80)}` });
      drop.onclick = () => this.#keep(this.#statements.filter((each) => each !== statement));
      return make("li", {}, use, drop);
    });
    this.#list.replaceChildren(...(rows.length ? rows : [make("li", { textContent: "None yet." })]));
  }
}

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(kept) ? kept.filter((each) => typeof each === "string").slice(0, KEPT_MAX) : [];
  } catch {
    return [];
  }
}
