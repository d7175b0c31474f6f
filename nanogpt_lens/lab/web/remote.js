/* The engine in Python, on the server that gave the page: each task is a request to it.

   An answer is bytes: four for the length of its JSON, the JSON, and behind it the arrays, which the JSON has as
   {"array": type, "shape", "at"}. */

import { Asked, named } from "./asked.js";

const TYPES = { float32: Float32Array, float64: Float64Array, int32: Int32Array };

export async function openRemote(payload) {
  const lab = new RemoteLab(payload, location.pathname.replace(/\/+$/, ""));
  lab.mode = "server";
  return lab;
}

class RemoteLab extends Asked {
  constructor(payload, address) {
    super(payload);
    this.address = address;
    this.running = new Map(); // by channel what ends its newest request
    this.all = new Set();
  }

  async ask(task, request, { channel, onProgress, onToken } = {}) {
    const control = new AbortController();
    if (channel !== undefined) {
      this.running.get(channel)?.abort();
      this.running.set(channel, control);
    }
    this.all.add(control);
    try {
      const result = await this.fetched(task, request, control.signal);
      if (onToken) result.ids.forEach((id) => onToken(id));
      if (onProgress) onProgress(1, 1);
      return result;
    } catch (error) {
      if (control.signal.aborted) throw named("Cancelled", "a newer request has taken its place");
      throw error;
    } finally {
      this.all.delete(control);
      if (this.running.get(channel) === control) this.running.delete(channel);
    }
  }

  async fetched(task, request, signal) {
    const headers = { "Content-Type": "application/json" };
    let response;
    try {
      response = await fetch(`${this.address}/${task}`, { method: "POST", headers, body: JSON.stringify(request), signal });
    } catch (error) {
      if (signal.aborted) throw error;
      throw new Error("the server that computes for this page does not answer; is it still running?");
    }
    if (!response.ok) throw new Error(await refusalOf(response));
    return unpackedAnswer(await response.arrayBuffer());
  }

  close() {
    for (const control of this.all) control.abort();
  }
}

async function refusalOf(response) {
  try {
    return (await response.json()).error.message;
  } catch (error) {
    return `the server refused (${response.status})`;
  }
}

/* What Python packed; a part that is an array becomes one. */
function unpackedAnswer(bytes) {
  const size = new DataView(bytes).getUint32(0, true);
  const text = new TextDecoder().decode(new Uint8Array(bytes, 4, size));
  return JSON.parse(text, (_, value) => {
    if (!value || typeof value !== "object" || !(value.array in TYPES)) return value;
    const Type = TYPES[value.array];
    const start = 4 + size + value.at;
    const length = value.shape.reduce((product, n) => product * n, 1);
    const data = new Type(bytes.slice(start, start + length * Type.BYTES_PER_ELEMENT));
    return value.flat ? data : { data, shape: value.shape };
  });
}
