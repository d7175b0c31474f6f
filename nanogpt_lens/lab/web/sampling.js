/* Text from the model as nanoGPT samples it, with or without interventions.

   Positions of interventions are those of the prompt: "all" of an intervention that takes the other prompt's activations
   are the prompt's, of any other one also those that come. Past the context the oldest token goes, as in nanoGPT. */

import { range } from "./sites.js";

export class Sampling {
  constructor(engine, request) {
    const { temperature = 1, top_k = null, seed = 0 } = request;
    if (!(temperature >= 0)) throw new Error(`the temperature is ${temperature}; expected 0 or more`);
    if (top_k !== null && !(top_k >= 1)) throw new Error(`top_k is ${top_k}; expected 1 or more, or null for all`);
    this.engine = engine;
    this.setting = engine.prepare(request);
    this.options = { temperature, top_k };
    this.random = generator(seed);
    this.prompt = this.setting.tokens.length;
    this.put = engine.putter(this.setting);
    this.edits = this.setting.edits.map((edit) => ofThePrompt(edit, this.prompt));
    this.origin = new Map(this.edits.map((edit, i) => [edit, this.setting.edits[i]]));
    this.tokens = [...this.setting.tokens];
    this.drawn = [];
    this.trace = engine.oldest();
    this.trace.pinned += 1;
    this.done = 0; // rows of the trace that are there
  }

  /* One more token; `breathe` lets others work between the layers: what is done so far is in this sample's own trace. */
  async next(breathe) {
    const { engine, trace } = this;
    const { n_ctx, n_layers, d_vocab } = engine.config;
    const offset = Math.max(0, this.tokens.length - n_ctx);
    const edits = offset ? this.edits.map((edit) => this.cropped(edit, offset)).filter(Boolean) : this.edits;
    const row = offset ? 0 : this.done;
    Object.assign(trace, { tokens: this.tokens.slice(offset), n: this.tokens.length - offset, key: null });
    engine.embed(trace, row);
    const put = (edit, name) => this.put(this.origin.get(edit), name);
    const setting = { ...this.setting, tokens: trace.tokens, edits };
    const pass = engine.pass(trace, setting, { put, row });
    for (const layer of range(n_layers)) {
      pass.through(layer, layer + 1);
      await breathe();
    }
    this.done = trace.n;
    const logits = pass.logits([trace.n - 1], new Float32Array(d_vocab)).subarray(0, engine.config.n_tokens);
    const id = chosen(logits, this.options, this.random);
    this.tokens.push(id);
    this.drawn.push(id);
    return id;
  }

  /* An edit where the first `offset` tokens have gone; null where all its positions have. */
  cropped(edit, offset) {
    const rows = edit.rows && edit.rows.map((row) => row - offset).filter((row) => row >= 0);
    const columns = edit.columns && edit.columns.map((column) => column - offset).filter((column) => column >= 0);
    if ((rows && !rows.length) || (columns && !columns.length)) return null;
    const moved = { ...edit, rows, columns, offset };
    this.origin.set(moved, this.origin.get(edit));
    return moved;
  }

  end() {
    this.trace.pinned -= 1;
  }
}

function ofThePrompt(edit, n) {
  const fixed = edit.source.kind === "other" || (edit.activation === "pattern" && ["mean", "add"].includes(edit.source.kind));
  if (!fixed) return { ...edit };
  const columns = edit.activation === "pattern" ? { columns: edit.columns || range(n) } : {};
  return { ...edit, rows: edit.rows || range(n), ...columns };
}

/* The likeliest token at temperature 0, else one drawn; among the k likeliest where top_k is given. */
function chosen(logits, { temperature, top_k }, random) {
  const order = range(logits.length).sort((a, b) => logits[b] - logits[a] || a - b);
  if (temperature === 0) return order[0];
  const most = logits[order[0]];
  const weights = order.slice(0, top_k === null ? order.length : top_k).map((id) => Math.exp((logits[id] - most) / temperature));
  let left = random() * weights.reduce((a, b) => a + b, 0);
  for (let i = 0; i < weights.length; i++) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[weights.length - 1];
}

/* Numbers from 0 to 1 that depend on the seed alone: a counter through a hash of 32 bits. */
function generator(seed) {
  let counter = (Math.floor(seed) ^ 0x9e3779b9) >>> 0;
  return () => {
    counter = (counter + 0x9e3779b9) >>> 0;
    let x = counter;
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return ((x ^ (x >>> 16)) >>> 0) / 4294967296;
  };
}
