// Where the learners are: in this browser. It has the same names as the backend of the page that has a server.
//
// `innerloop` holds what `innerloop demo --static` wrote: {setup, files: {name: gzip in base64}}.

import { packed } from "./safetensors.js";

export class BackendError extends Error {
  constructor(key, reason = "") {
    super(reason || key);
    this.key = key;
    this.values = { reason };
  }
}

// The bytes of a file that came with the page.
async function unpacked(name) {
  if (!innerloop.files[name]) throw new Error(`${name} is missing`);
  const bytes = Uint8Array.from(atob(innerloop.files[name]), (letter) => letter.charCodeAt(0));
  delete innerloop.files[name];
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// A thread that runs graphs. `asked(kind, content)` is what it answers.
class Runner {
  #waiting = new Map();
  #number = 0;

  constructor(code) {
    this.worker = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
    this.worker.addEventListener("message", ({ data: { number, result, error } }) => {
      const [done, failed] = this.#waiting.get(number) ?? [];
      if (!this.#waiting.delete(number)) return;
      if (error === undefined) done(result);
      else failed(new BackendError("errorBrowser", error));
    });
    this.worker.addEventListener("error", ({ message }) => {
      for (const [, failed] of this.#waiting.values()) failed(new BackendError("errorBrowser", message ?? ""));
      this.#waiting.clear();
    });
  }

  asked(kind, content) {
    const number = ++this.#number;
    return new Promise((done, failed) => {
      this.#waiting.set(number, [done, failed]);
      this.worker.postMessage({ number, kind, content });
    });
  }
}

const MOST_THREADS = 2;

let running = null; // a promise of {ids, runner} for each thread

async function started() {
  // The script with the runtime runs after this one, and before this event.
  if (!innerloop.files["ort.wasm"]) await new Promise((go) => document.addEventListener("DOMContentLoaded", go));
  const { learners, channels, size, ink } = innerloop.setup;
  const names = ["worker.js", "ort.mjs", "ort-glue.mjs", "ort.wasm"];
  const [code, script, glue, wasm] = await Promise.all(names.map(unpacked));
  const graphs = await Promise.all(learners.map(({ id }) => unpacked(`${id}.onnx`)));
  const threads = Math.min(MOST_THREADS, learners.length, navigator.hardwareConcurrency || 1);
  const begun = async (thread) => {
    const own = (_, number) => number % threads === thread;
    const here = learners.filter(own);
    const runner = new Runner(code);
    const content = { script, glue, wasm, graphs: graphs.filter(own), learners: here, shape: [channels, size, size], ink };
    await runner.asked("open", content);
    return { ids: here.map(({ id }) => id), runner };
  };
  return Promise.all(Array.from({ length: threads }, (_, thread) => begun(thread)));
}

function runners() {
  running ??= started().catch((error) => {
    throw error.key ? error : new BackendError("errorBrowser", error.message);
  });
  return running;
}

export async function setup() {
  runners().catch(() => {}); // they start while the page is drawn; who asks them hears of a failure
  return innerloop.setup;
}

export async function adapt(task) {
  const answers = await Promise.all((await runners()).map(({ runner }) => runner.asked("adapt", task)));
  const found = new Map(answers.flatMap(({ learners }) => learners).map((one) => [one.id, one]));
  return {
    learners: innerloop.setup.learners.map(({ id }) => found.get(id)),
    milliseconds: Math.max(...answers.map(({ milliseconds }) => milliseconds)),
  };
}

export async function model(task, id) {
  const { runner } = (await runners()).find(({ ids }) => ids.includes(id));
  const { ways, parameters, support } = await runner.asked("model", { task, id });
  const { header, head } = innerloop.setup.learners.find((learner) => learner.id === id);
  const net = { ...header.net, arguments: { ...header.net.arguments, ways: head.length ? ways : header.net.arguments.ways } };
  for (const name of head) {
    const { data, dims } = parameters[name];
    parameters[name] = { data: data.subarray(0, (data.length / dims[0]) * ways), dims: [ways, ...dims.slice(1)] };
  }
  const described = { ...header, net: JSON.stringify(net), classes: JSON.stringify(task.names) };
  return packed({ ...parameters, support }, described);
}
