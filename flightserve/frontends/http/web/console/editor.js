// A field for SQL that completes names. The choices come while one types, or with Ctrl+Space; Tab takes the first, or the
// one that the arrows went to, which Enter takes as well; Escape puts them away.
import { choicesFor } from "./completion.js";
import { freshId, make } from "./elements.js";

export class Editor {
  tables = [];
  #choices = [];
  #start = 0;
  #at = -1;
  #list = make("ul", { className: "choices", role: "listbox", ariaLabel: "Names that fit", hidden: true, tabIndex: 0, id: freshId("choices") });
  #mirror = make("div", { className: "mirror", "aria-hidden": "true" });
  #said = make("span", { className: "hint", role: "status" });

  constructor(value, describedBy) {
    this.text = make("textarea", { value, spellcheck: false, autocapitalize: "off", autocomplete: "off", id: freshId("sql"),
      "aria-autocomplete": "list", "aria-controls": this.#list.id, "aria-describedby": describedBy });
    this.element = make("div", { className: "editor" }, this.text, this.#mirror, this.#list);
    this.said = this.#said;
    // Of what is pasted or deleted nothing is meant to go on.
    this.text.addEventListener("input", ({ inputType, data }) => this.#offer(inputType !== "insertText" || data?.length !== 1));
    this.text.addEventListener("blur", () => this.close());
    this.text.addEventListener("click", () => this.close());
    this.text.addEventListener("scroll", () => this.close());
    // Before what the form does with the same keys.
    this.text.addEventListener("keydown", (event) => this.#key(event));
    this.#list.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const place = [...this.#list.children].indexOf(event.target.closest("li"));
      if (place >= 0) this.#take(place);
    });
  }

  close() {
    this.#list.hidden = true;
    this.#said.textContent = "";
    this.#at = -1;
    this.text.removeAttribute("aria-activedescendant");
  }

  // What is typed goes to where the caret is, and can be undone.
  insert(text) {
    this.text.focus();
    if (!document.execCommand("insertText", false, text)) this.text.setRangeText(text, this.text.selectionStart, this.text.selectionEnd, "end");
    this.close();
  }

  #offer(hide, all = false) {
    const caret = this.text.selectionStart;
    if (hide || caret !== this.text.selectionEnd) return this.close();
    const { start, choices, named } = choicesFor(this.text.value, caret, this.tables);
    if (!choices.length || (!all && !named && start === caret)) return this.close();
    this.#choices = choices;
    this.#start = start;
    this.#at = -1;
    this.#list.replaceChildren(...choices.map(({ name, about }) =>
      make("li", { role: "option", id: freshId("choice"), ariaSelected: "false" }, make("span", { textContent: name }), make("small", { textContent: about }))));
    this.#list.hidden = false;
    this.#place(start);
    this.#said.textContent = `${choices.length} ${choices.length === 1 ? "name fits" : "names fit"}`;
  }

  #key(event) {
    if (event.key === " " && event.ctrlKey) {
      event.preventDefault();
      this.#offer(false, true);
      return;
    }
    if (this.#list.hidden || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) this.#go((this.#at + step + this.#choices.length + (this.#at < 0 && step < 0 ? 1 : 0)) % this.#choices.length);
    else if (event.key === "Tab" && !event.shiftKey) this.#take(Math.max(0, this.#at));
    else if (event.key === "Enter" && this.#at >= 0) this.#take(this.#at);
    else if (event.key === "Escape") this.close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #go(place) {
    this.#list.children[this.#at]?.setAttribute("aria-selected", "false");
    this.#at = place;
    const chosen = this.#list.children[place];
    chosen.setAttribute("aria-selected", "true");
    chosen.scrollIntoView({ block: "nearest" });
    this.text.setAttribute("aria-activedescendant", chosen.id);
  }

  #take(place) {
    this.text.setSelectionRange(this.#start, this.text.selectionStart);
    this.insert(this.#choices[place].name);
  }

  // Below the word: as far as a copy of the text up to there goes.
  #place(start) {
    const { style } = this.#mirror;
    const own = getComputedStyle(this.text);
    for (const name of ["font", "padding", "border", "lineHeight", "letterSpacing", "tabSize"]) style[name] = own[name];
    style.width = `${this.text.clientWidth + parseFloat(own.borderLeftWidth) + parseFloat(own.borderRightWidth)}px`;
    const end = make("span", { textContent: "\u200b" });
    this.#mirror.replaceChildren(this.text.value.slice(0, start), end);
    const left = Math.min(end.offsetLeft, Math.max(0, this.element.clientWidth - this.#list.offsetWidth));
    this.#list.style.left = `${left}px`;
    this.#list.style.top = `${Math.min(this.text.offsetHeight, end.offsetTop + end.offsetHeight - this.text.scrollTop + 2)}px`;
    this.#mirror.replaceChildren();
  }
}
