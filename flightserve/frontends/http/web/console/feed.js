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

  #path;
  #stopped = false;
  #look = () => this.#soon(0);

  // `path`: of what is asked for. `take(picture)`: there is a new one. `notice(picture, gone)`: likewise, or why there is none.
  constructor(path, take, notice) {
    this.#path = path;
    this.#take = take;
    this.#notice = notice;
    document.addEventListener("visibilitychange", this.#look);
    addEventListener("online", this.#look);
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.#look);
    removeEventListener("online", this.#look);
    this.#notice(null, "");
  }

  // Ask so often from now on, and at once.
  every(periodMs) {
    this.#periodMs = periodMs;
    if (this.#newest) this.#take(this.#newest);
    this.#soon(0);
  }

  #soon(afterMs) {
    clearTimeout(this.#timer);
    if (!this.#stopped && document.visibilityState === "visible") this.#timer = setTimeout(() => this.#ask(), afterMs);
  }

  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    let next = this.#periodMs;
    try {
      const response = await ask(this.#path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
      const picture = await response.json();
      if (this.#stopped) return;
      this.#newest = picture;
      this.#goneSince = null;
      this.#notice(this.#newest, "");
      this.#take(this.#newest);
    } catch (error) {
      if (this.#stopped) return;
      next = Math.max(next, AFTER_FAILURE_MS);
      this.#notice(this.#newest, this.#why(error));
    } finally {
      this.#asking = false;
    }
    this.#soon(next);
  }

  #why(error) {
    if (error instanceof Refused) return `The app says nothing of itself: ${error.message}`;
    this.#goneSince ??= new Date();
    return `The server does not answer since ${this.#goneSince.toLocaleTimeString()}. It is asked again every few seconds.`;
  }
}
