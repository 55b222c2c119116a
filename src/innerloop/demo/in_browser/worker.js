// Runs the learners' graphs on a thread of its own, so that drawing stays smooth.

const OPTIONS = { executionProviders: ["wasm"], logSeverityLevel: 3 };

let ort, shape, ink;
const learners = []; // {id, steps, anyWays, session}
let latest = 0; // the number of the newest task

const work = { open, adapt, model };
let queue = Promise.resolve();

onmessage = ({ data: { number, kind, content } }) => {
  if (kind === "adapt") latest = number;
  queue = queue.then(async () => {
    try {
      postMessage({ number, result: await work[kind](content, number) });
    } catch (error) {
      postMessage({ number, error: String(error?.message ?? error) });
    }
  });
};

async function open({ script, glue, wasm, graphs, learners: described, ...images }) {
  ({ shape, ink } = images);
  const address = (content, type = "text/javascript") => URL.createObjectURL(new Blob([content], { type }));
  ort = await import(address(script));
  const wasmPaths = { mjs: address(glue), wasm: address(wasm, "application/wasm") };
  Object.assign(ort.env.wasm, { numThreads: 1, proxy: false, wasmPaths });
  for (const [i, graph] of graphs.entries()) {
    const session = await ort.InferenceSession.create(new Uint8Array(graph), OPTIONS);
    learners.push({ ...described[i], session });
  }
}

// Images, bytes from 0 to 255 where 255 is ink, as the networks take them.
function images(list) {
  const length = shape.reduce((a, b) => a * b);
  const values = new Float32Array(list.length * length);
  list.forEach((levels, i) => levels.forEach((level, j) => (values[i * length + j] = ink === 0 ? 1 - level / 255 : level / 255)));
  return new ort.Tensor("float32", values, [list.length, ...shape]);
}

async function run({ session, anyWays }, { classes, query }, outputs) {
  const labels = classes.flatMap((examples, label) => examples.map(() => BigInt(label)));
  const support = images(classes.flat());
  const feeds = {
    support_x: support,
    support_y: new ort.Tensor("int64", BigInt64Array.from(labels), [labels.length]),
    query_x: images([query ?? classes[0][0]]),
  };
  if (anyWays) feeds.ways = new ort.Tensor("int64", [BigInt(classes.length)], []);
  return { support, found: await session.run(feeds, outputs) };
}

function softmax(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

async function adapt(task, number) {
  const started = performance.now();
  const answers = [];
  for (const learner of learners) {
    await new Promise((go) => setTimeout(go)); // a newer task may have come
    if (number !== latest) throw new Error("a newer task has come");
    const before = performance.now();
    const { found } = await run(learner, task, ["step_losses", "step_logits"]);
    const [rows, , width] = found.step_logits.dims;
    const row = (k) => softmax(found.step_logits.data.subarray(k * width, k * width + task.classes.length));
    answers.push({
      id: learner.id,
      losses: Array.from(found.step_losses.data),
      probabilities: task.query ? Array.from({ length: rows }, (_, k) => row(k)) : null,
      milliseconds: performance.now() - before,
    });
  }
  return { learners: answers, milliseconds: performance.now() - started };
}

async function model({ task, id }) {
  const learner = learners.find((one) => one.id === id);
  const outputs = learner.session.outputNames.filter((name) => name.startsWith("parameters."));
  const { support, found } = await run(learner, task, outputs);
  const plain = ({ data, dims }) => ({ data, dims: [...dims] });
  const named = outputs.map((name) => [name.slice("parameters.".length), plain(found[name])]);
  return { ways: task.classes.length, parameters: Object.fromEntries(named), support: plain(support) };
}
