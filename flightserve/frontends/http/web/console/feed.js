// What the app is like, asked for again and again: not while the page is hidden, and less often while nobody answers.
import { Refused, ask } from "./requests.js";

const TIMEOUT_MS = 5000;
const AFTER_FAILURE_MS = 2000;

export class Feed {
  #take;
  #notice;
  #periodMs = 1000;
  #timer = null;
  #asking = false;
  #newest = null;
  #goneSince = null;

  // `take(picture)`: there is a new one. `notice(picture, gone)`: likewise, or why there is none.
  constructor(take, notice) {
    this.#take = take;
    this.#notice = notice;
    document.addEventListener("visibilitychange", () => this.#soon(0));
    addEventListener("online", () => this.#soon(0));
  }

  // Ask so often from now on, and at once.
  every(periodMs) {
    this.#periodMs = periodMs;
    if (this.#newest) this.#take(this.#newest);
    this.#soon(0);
  }

  #soon(afterMs) {
    clearTimeout(this.#timer);
    if (document.visibilityState === "visible") this.#timer = setTimeout(() => this.#ask(), afterMs);
  }

  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    let next = this.#periodMs;
    try {
      const response = await ask("console/live", { signal: AbortSignal.timeout(TIMEOUT_MS) });
      this.#newest = await response.json();
      this.#goneSince = null;
      this.#notice(this.#newest, "");
      this.#take(this.#newest);
    } catch (error) {
      next = Math.max(next, AFTER_FAILURE_MS);
      this.#notice(this.#newest, this.#why(error));
    } finally {
      this.#asking = false;
    }
    this.#soon(next);
  }

  #why(error) {
    if (error instanceof Refused) return `The state of the app is not shown: ${error.message}`;
    this.#goneSince ??= new Date();
    return `The server does not answer since ${this.#goneSince.toLocaleTimeString()}. It is asked again every few seconds.`;
  }
}
