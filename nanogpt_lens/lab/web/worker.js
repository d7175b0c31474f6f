/* The engine's host: takes jobs as messages and answers them, one step at a time, so that a newer job can overtake.

   In a worker, or, where a page may have none, beside the page itself; `client.js` speaks to both alike. */

import { Engine } from "./engine.js";
import { TASKS } from "./tasks.js";
import { tensorsOf, unpacked } from "./weights.js";

const PATIENCE = 4; // milliseconds of work before others are let in
const SHORT = 24; // milliseconds of a run that does not wait to be cancelled

export class Host {
  constructor(post) {
    this.post = post;
    this.cancelled = new Set();
    this.runTook = 0; // milliseconds of the last run
    this.turns = new Turns();
  }

  async receive({ id, task, request }) {
    if (task === "cancel") return this.cancelled.add(request.id);
    try {
      const result = task === "start" ? await this.start(request) : await this.work(id, task, request);
      this.post({ id, result });
    } catch (error) {
      this.post({ id, error: { name: error.name, message: error.message } });
    } finally {
      this.cancelled.delete(id);
    }
    return null;
  }

  async start({ payload, weights, kernel }) {
    const bytes = await unpacked(weights);
    const tensors = tensorsOf(payload.tensors, bytes);
    this.cases = casesOf(payload.proof, tensors);
    const own = Object.fromEntries(Object.entries(tensors).filter(([name]) => !name.startsWith("proof")));
    const { config, reference, directions } = payload;
    const parts = { config, reference: reference || [], directions: directions || {}, tensors: own };
    const [engine, mode] = await started(parts, kernel);
    this.engine = engine;
    return { mode };
  }

  async work(id, task, request) {
    let last = performance.now();
    const breathe = async () => {
      if (performance.now() - last < PATIENCE) return;
      await this.turns.next();
      last = performance.now();
      if (this.cancelled.has(id)) throw new Cancelled();
    };
    const progress = (done, total) => {
      if (done === total || performance.now() - last >= PATIENCE) this.post({ id, progress: [done, total] });
    };
    const token = (one) => this.post({ id, token: one });
    if (task !== "run" || this.runTook > SHORT) {
      await (task === "run" ? pause() : this.turns.next()); // a cancellation that came right behind the request
      if (this.cancelled.has(id)) throw new Cancelled();
    }
    const asked = task === "prove" ? { cases: this.cases } : request;
    const result = await TASKS[task](this.engine, asked, { breathe, progress, token });
    if (task === "run") this.runTook = result.ms;
    return result;
  }
}

/* Jobs that take turns; a message that comes during one job's turn is received before the next job's. */
class Turns {
  constructor() {
    this.waiting = [];
  }

  /* Resolves when it is one's turn again. */
  next() {
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      if (this.waiting.length === 1) this.give();
    });
  }

  async give() {
    while (this.waiting.length) {
      await pause(); // sent before the turn that is being taken
      await pause(); // sent after it, so behind every message that came during it
      this.waiting.shift()();
    }
  }
}

/* With the kernel where the page lets WebAssembly in, else in plain JavaScript. */
async function started(parts, kernel) {
  if (kernel) {
    try {
      return [await Engine.start({ ...parts, kernel }), "simd"];
    } catch (error) {
      if (!(error instanceof WebAssembly.CompileError)) throw error;
    }
  }
  return [await Engine.start({ ...parts, kernel: null }), "plain"];
}

export class Cancelled extends Error {
  constructor() {
    super("a newer request has taken its place");
    this.name = "Cancelled";
  }
}

/* The proof's cases with their expected logits; none where the file carries no proof. */
function casesOf(proof, tensors) {
  return ((proof && proof.cases) || []).map((one, i) => ({ ...one, expected: tensors[`proof.${i}`] }));
}

/* Let waiting messages in. */
function pause() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/* What the worker's own script calls. */
export function hostInWorker() {
  const host = new Host((message) => self.postMessage(message));
  self.onmessage = ({ data }) => host.receive(data);
}
