// CSV as this server writes it (RFC 4180, texts in quotes, a null is an empty field without), read as it comes.

// A cell is null or {text, isText}: what was in quotes is a text, anything else a number, a boolean or the like.
export class CsvReader {
  #row = [];
  #text = "";
  #quoted = false;
  #inside = false;
  // A quote within quotes: the end, or the first of two that stand for one.
  #quote = false;

  // The rows that this piece completes.
  push(piece) {
    const rows = [];
    for (const each of piece) {
      if (this.#quote) {
        this.#quote = false;
        if (each === '"') {
          this.#text += '"';
          continue;
        }
        this.#inside = false;
      }
      if (this.#inside) {
        if (each === '"') this.#quote = true;
        else this.#text += each;
      } else if (each === '"') {
        this.#inside = this.#quoted = true;
      } else if (each === ",") {
        this.#endCell();
      } else if (each === "\n") {
        this.#endCell();
        rows.push(this.#row);
        this.#row = [];
      } else {
        this.#text += each;
      }
    }
    return rows;
  }

  #endCell() {
    this.#row.push(this.#quoted || this.#text ? { text: this.#text, isText: this.#quoted } : null);
    this.#text = "";
    this.#quoted = this.#inside = false;
  }
}
