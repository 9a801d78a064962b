// What runs for a form, one thing at a time: it can be cancelled, and how it ended is said where people look and where
// screen readers listen.
import { make } from "./elements.js";
import { Refused } from "./requests.js";

export class Running {
  #controller = null;

  constructor() {
    this.said = make("p", { className: "said", role: "status" });
    this.error = make("p", { className: "error", role: "alert" });
    this.cancel = make("button", { type: "button", textContent: "Cancel", disabled: true });
    this.cancel.onclick = () => this.stop();
  }

  stop() {
    this.#controller?.abort();
  }

  // Run `work(signal)`, which returns what to say at its end. What ran before is cancelled.
  async run(work) {
    this.stop();
    const controller = (this.#controller = new AbortController());
    const begun = performance.now();
    this.error.textContent = "";
    this.said.textContent = "Running...";
    this.cancel.disabled = false;
    let said = "";
    let wrong = "";
    try {
      said = `${await work(controller.signal)} in ${duration(performance.now() - begun)}`;
    } catch (error) {
      if (controller.signal.aborted) said = "Cancelled";
      else wrong = described(error);
    }
    // Another run has begun, whose words stand there.
    if (this.#controller !== controller) return;
    this.#controller = null;
    this.said.textContent = said;
    this.error.textContent = wrong;
    this.cancel.disabled = true;
  }
}

const duration = (ms) => (ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`);

function described(error) {
  if (error instanceof Refused) return error.message + (error.requestId ? `\nrequest ${error.requestId}` : "");
  // Whatever the browser calls it: the connection ended, before the answer or within it.
  if (error instanceof TypeError) return "The connection broke off before the answer was whole.";
  return String(error.message ?? error);
}
