/* What can be asked of an engine, wherever it computes: in a worker of the page (`client.js`), or in Python on the server
   that gave the page (`remote.js`). Each has `ask(task, request, {channel, onProgress, onToken})`; newer requests cancel
   older ones on the same channel, which then fail with an error named "Cancelled". */

export class Asked {
  constructor(payload) {
    this.payload = payload;
    this.mode = null;
  }

  prove(onProgress) {
    return this.ask("prove", {}, { onProgress }).then((result) => ({ ...result, mode: this.mode }));
  }

  run({ channel, ...request }) {
    return this.ask("run", request, { channel });
  }

  sweep({ channel, onProgress, ...request }) {
    return this.ask("sweep", request, { channel, onProgress });
  }

  lens({ channel, ...request }) {
    return this.ask("lens", request, { channel });
  }

  contributions({ channel, ...request }) {
    return this.ask("contributions", request, { channel });
  }

  sample({ channel, onToken, ...request }) {
    return this.ask("sample", request, { channel, onToken });
  }

  /* A run for scripts: nested arrays, logits [pos][vocab]. */
  async plainRun({ tokens, interventions = [], other = null, activations = [], reference = null }) {
    const result = await this.run({ tokens, interventions, other, activations, reference });
    const kept = Object.entries(result.activations).map(([name, array]) => [name, nested(array)]);
    return { logits: nested(result.logits), activations: Object.fromEntries(kept) };
  }
}

export function named(name, message) {
  const error = new Error(message);
  error.name = name;
  return error;
}

/* {data, shape} as nested arrays. */
function nested({ data, shape }) {
  if (shape.length === 1) return Array.from(data);
  const size = data.length / shape[0];
  return Array.from({ length: shape[0] }, (_, i) => nested({ data: data.subarray(i * size, (i + 1) * size), shape: shape.slice(1) }));
}
