// Asks the backend. Only the latest question counts: an earlier one that is still open is given up.

import { adapt } from "./backend.js";

export class Asker {
  #abort = null;
  #latest = 0;

  constructor(then, failed) {
    this.then = then;
    this.failed = failed;
  }

  async ask(task, tries = 20) {
    this.#abort?.abort();
    this.#abort = new AbortController();
    const number = ++this.#latest;
    try {
      const answer = await adapt(task, this.#abort.signal);
      if (number === this.#latest) this.then(answer, task);
    } catch (error) {
      if (error.name === "AbortError" || number !== this.#latest) return;
      this.failed(error);
      if (error.key === "errorBusy" && tries > 0) {
        setTimeout(() => number === this.#latest && this.ask(task, tries - 1), 700);
      }
    }
  }

  forget() {
    this.#abort?.abort();
    this.#latest++;
  }
}
