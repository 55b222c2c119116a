// Where the learners are: on the server. The page that needs no server has another file in this one's place, with the
// same four names.

// What a backend could not do. `key` names the text that says so.
export class BackendError extends Error {
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
    throw new BackendError("errorOffline");
  }
  if (response.ok) return response;
  const { error = response.statusText } = await response.json().catch(() => ({}));
  throw new BackendError(response.status === 429 || response.status === 503 ? "errorBusy" : "errorServer", error);
}

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
  return btoa(text);
}

function posted({ classes, names, query }, more, signal) {
  const content = { classes: classes.map((examples) => examples.map(base64)), names, query: query && base64(query), ...more };
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content), signal };
}

// The learners, the images that they take, and the limits.
export async function setup() {
  return (await answered("api/setup")).json();
}

// What all learners answer to a task {classes: [[bytes]], names, query: bytes or null}.
export async function adapt(task, signal) {
  return (await answered("api/adapt", posted(task, {}, signal))).json();
}

// The file of one learner's adapted network.
export async function model(task, learner) {
  return (await answered("api/model", posted(task, { learner }))).blob();
}
