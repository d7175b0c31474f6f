/* Where the page begins: anywidget's contract, and the same thing as a file of its own. LAB_CSS comes from Python. */
import { bytesOf, openLab } from "./client.js";
import { elem } from "./draw.js";
import { createPage } from "./page.js";
import { pythonOf } from "./python.js";
import { firstState, fragmentOf, readFragment, readState } from "./state.js";

/* Bytes in whatever form a host hands them over. */
function asBytes(weights) {
  if (weights instanceof Uint8Array) return weights;
  if (weights instanceof ArrayBuffer) return new Uint8Array(weights);
  return new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength);
}

/* A page in a shadow root of `host`, computing as soon as the engine is there. */
function startPage(host, { payload, weights, state, standalone, mount, problem, open = openLab }) {
  const place = elem("div", { class: "nanogpt-lens-lab" });
  host.replaceChildren(place);
  const root = place.attachShadow({ mode: "open" });
  root.append(elem("style", { text: LAB_CSS }));
  const page = createPage({ root, payload, state, standalone, mount });
  if (problem) page.say(problem);
  let lab = null, closed = false;
  page.ready = open(payload, weights).then((opened) => {
    lab = opened;
    if (closed) lab.close();
    else page.connect(lab);
    return lab;
  });
  page.proofDone = page.ready.then((opened) => afterFirstNumbers(page).then(() => opened.prove())).then(
    (outcome) => { page.proof.outcome = outcome; page.draw(); return outcome; },
    (error) => { if (!closed) { page.proof.problem = error.message; page.results.problem = error.message; page.draw(); } throw error; },
  );
  page.proofDone.catch(() => {});
  page.ready.catch(() => {});
  if (standalone) page.tour.begin();
  return { page, close() { closed = true; page.close(); lab?.close(); place.remove(); } };
}

/* Resolves when the first numbers are on the page, or after a second. */
async function afterFirstNumbers(page) {
  for (let i = 0; i < 50 && !page.results.shown; i++) await new Promise((resolve) => { setTimeout(resolve, 20); });
}

function stateFrom(payload, sources) {
  let problem = null;
  for (const data of sources) {
    if (data === null || data === undefined) continue;
    const read = readState(payload, data);
    if (read.state) return { state: read.state, problem };
    problem = read.problem;
  }
  return { state: firstState(payload), problem };
}

/* anywidget's entry: the page in a cell; what it returns closes it. */
export function render({ model, el }) {
  const given = model.get("payload");
  const payload = typeof given === "string" ? JSON.parse(given) : given;
  const { state, problem } = stateFrom(payload, [model.get("state"), payload.state]);
  const { page, close } = startPage(el, { payload, weights: asBytes(model.get("weights")), state, problem, standalone: false, mount: null });
  const stop = followModel(page, model);
  return () => { stop(); close(); };
}

/* The widget's state follows the page's, where the host keeps one. */
function followModel(page, model) {
  let timer = null;
  const stop = page.store.listen((state) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      try { model.set?.("state", state); model.save_changes?.(); } catch { /* a host without a kernel keeps nothing */ }
    }, 400);
  });
  return () => { stop(); clearTimeout(timer); };
}

const isObject = (value) => typeof value === "object" && value !== null;

function jsonInDocument(name) {
  const script = document.querySelector(`script[data-lab="${name}"]`);
  const text = script?.textContent.trim();
  if (!text) return null;
  try { return JSON.parse(text); } catch { return isObject(script) && name === "state" ? { version: "damaged" } : null; }
}

/* The public interface for scripts; `run` waits until the engine is there. */
function scriptingOf(page, payload) {
  return {
    async run(request) {
      const lab = await page.ready;
      return lab.plainRun({ interventions: [], other: null, activations: [], ...request });
    },
    sweep: async (request) => (await page.ready).sweep(request),
    lens: async (request) => (await page.ready).lens(request),
    contributions: async (request) => (await page.ready).contributions(request),
    sample: async (request) => (await page.ready).sample(request),
    state: () => JSON.parse(JSON.stringify(page.store.get())),
    set(data) {
      const { state, problem } = readState(payload, data);
      if (!state) throw new Error(problem);
      page.store.replace(state);
    },
    python: () => pythonOf(payload, page.store.get()),
    ready: page.ready.then(() => undefined),
    proof: page.proofDone,
  };
}

/* The state in the address, and what a pasted address brings. */
function followAddress(page, payload) {
  let timer = null, written = location.hash;
  page.store.listen((state) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      try {
        written = `#${fragmentOf(state)}`;
        history.replaceState(null, "", written);
      } catch { /* some hosts keep their address */ }
    }, 400);
  });
  window.addEventListener("hashchange", () => {
    if (location.hash === written) return;
    const { data, problem } = readFragment(location.hash);
    const read = data === null ? { state: null, problem } : readState(payload, data);
    if (read.problem) page.say(read.problem);
    if (read.state) page.store.replace(read.state);
  });
}

/* The page as a file of its own: everything is read from the document. With address: false it is a part of another page,
   whose address is not the lab's. With `open` the engine is another one than the page's own, and there are no weights. */
export function mountStandalone(root, { address = true, open } = {}) {
  const payload = jsonInDocument("payload");
  if (!payload) throw new Error("the file holds no model: its payload is missing");
  const weights = open ? null : bytesOf(document.querySelector('script[data-lab="weights"]').textContent.trim());
  const fragment = address ? readFragment(location.hash) : { data: null, problem: null };
  const { state, problem } = stateFrom(payload, [fragment.data, jsonInDocument("state"), payload.state]);
  const { page, close } = startPage(root, { payload, weights, state, problem: fragment.problem ?? problem, standalone: address, mount: root, open });
  const api = scriptingOf(page, payload);
  api.ready.catch(() => {});
  window.lab = api;
  if (address) followAddress(page, payload);
  return close;
}
