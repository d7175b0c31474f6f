/* The page's side of the engine: requests go to the worker, newer ones cancel older ones on the same channel.

   ENGINE_SOURCE (the engine's script) and KERNEL (the WebAssembly kernel, base64) are put in front by Python. */

import { Asked, named } from "./asked.js";
import { Host } from "./worker.js";

/* The kernel's smallest relative: does this browser have WebAssembly with SIMD? */
const SIMD_PROBE = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

/* A handle on the model: payload and weights (bytes) as Python packed them. */
export async function openLab(payload, weights, { plain = asksForPlain() } = {}) {
  const lab = new LabClient(payload);
  const kernel = plain || !hasSimd() ? null : bytesOf(KERNEL);
  try {
    const { mode } = await lab.ask("start", { payload: engineParts(payload), weights, kernel });
    lab.mode = mode;
  } catch (error) {
    lab.close();
    throw error;
  }
  return lab;
}

class LabClient extends Asked {
  constructor(payload) {
    super(payload);
    this.waiting = new Map();
    this.latest = new Map();
    this.next = 1;
    this.post = this.connect();
  }

  close() {
    if (this.worker) this.worker.terminate();
    if (this.url) URL.revokeObjectURL(this.url);
    this.worker = null;
    this.post = () => {};
    this.fail(new Error("the lab was closed"));
  }

  ask(task, request, { channel, onProgress, onToken } = {}) {
    const id = this.next++;
    if (channel !== undefined) this.overtake(channel, id);
    return new Promise((resolve, reject) => {
      const message = { id, task, request };
      this.waiting.set(id, { resolve, reject, onProgress, onToken, channel, message });
      this.post(message);
    });
  }

  overtake(channel, id) {
    const older = this.latest.get(channel);
    this.latest.set(channel, id);
    const waiting = this.waiting.get(older);
    if (!waiting) return;
    this.waiting.delete(older);
    this.post({ task: "cancel", request: { id: older } });
    waiting.reject(named("Cancelled", "a newer request has taken its place"));
  }

  answer({ id, result, error, progress, token }) {
    const waiting = this.waiting.get(id);
    if (!waiting) return;
    if (progress) return void (waiting.onProgress && waiting.onProgress(...progress));
    if (token !== undefined) return void (waiting.onToken && waiting.onToken(token));
    this.waiting.delete(id);
    if (error) waiting.reject(named(error.name, error.message));
    else waiting.resolve(result);
  }

  /* A worker; where the page may have none, the same host on this side. */
  connect() {
    try {
      this.url = URL.createObjectURL(new Blob([ENGINE_SOURCE], { type: "text/javascript" }));
      this.worker = new Worker(this.url);
    } catch (error) {
      return this.hostHere();
    }
    let heard = false;
    this.worker.onmessage = ({ data }) => {
      heard = true;
      this.answer(data);
    };
    this.worker.onerror = (event) => {
      if (heard) return this.fail(new Error(`the engine failed: ${event.message}`));
      this.post = this.hostHere();
      for (const { message } of [...this.waiting.values()]) this.post(message);
      return null;
    };
    return (message) => this.worker.postMessage(message);
  }

  hostHere() {
    const host = new Host((message) => this.answer(message));
    return (message) => void host.receive(message);
  }

  fail(error) {
    for (const waiting of this.waiting.values()) waiting.reject(error);
    this.waiting.clear();
  }
}

/* What of the payload the engine needs. */
function engineParts({ config, tensors, proof, reference, directions }) {
  return { config, tensors, proof, reference, directions };
}

function hasSimd() {
  try {
    return WebAssembly.validate(new Uint8Array(SIMD_PROBE));
  } catch (error) {
    return false;
  }
}

/* A page that is opened with ?plain computes in plain JavaScript. */
function asksForPlain() {
  return Boolean(globalThis.location && new URLSearchParams(globalThis.location.search).has("plain"));
}

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}
