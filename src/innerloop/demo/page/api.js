// Asking the server. Only the latest question counts: an earlier one that is still open is given up.

export class ServerError extends Error {
  constructor(key, reason = "") {
    super(reason || key);
    this.key = key;
    this.values = { reason };
  }
}

async function answered(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("errorOffline");
  }
  if (response.ok) return response;
  const { error = response.statusText } = await response.json().catch(() => ({}));
  throw new ServerError(response.status === 429 || response.status === 503 ? "errorBusy" : "errorServer", error);
}

function posted(content, signal) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content), signal };
}

export async function setup() {
  return (await answered("api/setup")).json();
}

export function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
  return btoa(text);
}

// The file of one learner's adapted network.
export async function model(task, learner) {
  return (await answered("api/model", posted({ ...task, learner }))).blob();
}

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
      const answer = await (await answered("api/adapt", posted(task, this.#abort.signal))).json();
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
