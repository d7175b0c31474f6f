/* The engine: the model in memory, the runs that it remembers, and runs with interventions that continue from them. */

import { Heap, simdOps, plainOps } from "./ops.js";
import { placed, sizeOf } from "./weights.js";
import { hookName, resolveAll, range } from "./sites.js";
import { firstLayer, firstRow, planOf } from "./edits.js";
import { Pass, shapeOf } from "./forward.js";
import { Means } from "./means.js";
import { directionOf } from "./directions.js";

const REMEMBERED = 6; // traces: clean, other, with the changes, samples
const KEPT_FLOATS = 1 << 24; // of activations of remembered runs
const LOGIT_FLOATS = 1 << 18; // of logits that are computed at once

export class Engine {
  /* config and tensors as Python packed them; kernel: bytes of kernel.wasm, or null for plain JavaScript */
  static async start({ config, tensors, kernel, reference = [], directions = {} }) {
    const engine = new Engine();
    const [n, d, m] = [config.n_ctx, config.d_model, config.d_mlp];
    const chunk = Math.max(1, Math.min(n, Math.floor(LOGIT_FLOATS / config.d_vocab)));
    const one = n * d * (4 * config.n_layers + 1);
    const scratch = n * (6 * d + 2 * m + n + 1) + chunk * config.d_vocab;
    const heap = new Heap(Boolean(kernel), sizeOf(tensors) + (REMEMBERED + 1) * (one + 64) + scratch + 8192);
    const ops = kernel ? await simdOps(heap, kernel) : plainOps(heap);
    const weights = placed(heap, config, tensors);
    engine.model = { config, heap, ops, weights, scratch: scratchOf(heap, config, chunk) };
    engine.config = config;
    engine.traces = range(REMEMBERED + 1).map(() => emptyTrace(heap, config));
    engine.spare = engine.traces.pop();
    engine.clock = 0;
    engine.directions = directions;
    engine.means = new Means(engine, reference);
    return engine;
  }

  checkTokens(tokens, name = "tokens") {
    const { n_ctx, d_vocab } = this.config;
    const list = tokens && Array.from(tokens);
    if (!list || !list.length) throw new Error(`${name} has no tokens; expected at least one id`);
    if (list.length > n_ctx) throw new Error(`${name} has ${list.length} tokens; expected at most ${n_ctx}, the model's context`);
    const wrong = list.find((id) => !Number.isInteger(id) || id < 0 || id >= d_vocab);
    if (wrong !== undefined) throw new Error(`${name} has the token ${wrong}; expected whole numbers from 0 to ${d_vocab - 1}`);
    return list;
  }

  /* What a request asks for, held against the model. */
  prepare({ tokens, interventions = [], other = null, reference = null }) {
    const ids = this.checkTokens(tokens);
    const setting = { tokens: ids, other: other ? this.checkTokens(other, "other") : null, reference };
    const edits = resolveAll(this.config, interventions, ids.length);
    return { ...setting, edits, key: JSON.stringify([interventions, setting.other, reference]) };
  }

  /* The trace of a run with edits, remembered or made; the rest of the text that it shares with a remembered one is kept. */
  trace(setting) {
    const { tokens, edits } = setting;
    const key = edits.length ? setting.key : "";
    const known = this.traces.find((trace) => trace.key === key && same(trace.tokens, tokens));
    if (known) return this.touch(known);
    const put = this.putter(setting);
    const trace = this.oldest();
    const row = edits.length ? 0 : this.shared(trace, tokens);
    this.claim(trace, setting, key);
    this.embed(trace, row);
    this.pass(trace, setting, { put, row }).through(0, this.config.n_layers);
    return trace;
  }

  pass(trace, setting, options) {
    const wanted = edgesOf(setting).map((edit) => edit.sender.name);
    const put = options.put || this.putter(setting);
    return new Pass(this.model, trace, { plan: planOf(setting.edits), wanted, ...options, put });
  }

  /* Put what an unedited, remembered run of the same beginning holds into a trace; how many rows that are. */
  shared(trace, tokens) {
    const common = (other) => tokens.findIndex((id, i) => id !== other.tokens[i]);
    const rows = (other) => (common(other) < 0 ? tokens.length : common(other));
    const best = this.traces.filter((one) => one.tokens && one.key === "" && one !== trace).sort((a, b) => rows(b) - rows(a))[0];
    const row = best ? Math.min(rows(best), tokens.length - 1) : 0;
    if (row > 0) copyRows(this.model, best, trace, 0, row);
    return row;
  }

  claim(trace, setting, key) {
    Object.assign(trace, { tokens: setting.tokens, n: setting.tokens.length, key, setting, kept: new Map(), logits: null });
    return this.touch(trace);
  }

  touch(trace) {
    trace.used = ++this.clock;
    return trace;
  }

  oldest() {
    const free = this.traces.filter((trace) => !trace.pinned).sort((a, b) => a.used - b.used)[0];
    if (!free) throw new Error("too many computations at once; wait for one to end");
    Object.assign(free, { tokens: null, key: null });
    return free;
  }

  /* Token and position embedding of the rows from `row` on. */
  embed(trace, row) {
    const { config, heap, weights } = this.model;
    const [d, f] = [config.d_model, heap.f32];
    for (let r = row; r < trace.n; r++) {
      const [from, pos, to] = [weights.embed + trace.tokens[r] * d, weights.pos + r * d, trace.resid[0] + r * d];
      for (let i = 0; i < d; i++) f[to + i] = f[from + i] + f[pos + i];
    }
  }

  /* A run with more edits, continued from the trace `parent` in the spare trace, from the first place that they change.
     `setting.edits` are all edits, those of the parent among them; `fresh` are those that the parent does not have. */
  continued(parent, setting, fresh, record = new Map()) {
    const { n_layers } = this.config;
    const put = this.putter(setting);
    const start = firstLayer(fresh, n_layers);
    const row = record.size ? 0 : Math.min(firstRow(fresh, parent.n), parent.n - 1);
    const senders = this.sendersBelow(setting, start, parent);
    const trace = this.spare;
    copyRows(this.model, parent, trace, start, row);
    Object.assign(trace, { tokens: parent.tokens, n: parent.n, key: null });
    const d = this.config.d_model;
    const [from, to] = [parent.resid[start], trace.resid[start]];
    this.model.heap.f32.copyWithin(to + row * d, from + row * d, from + parent.n * d);
    return this.pass(trace, setting, { put, row, record, senders }).through(start, n_layers);
  }

  /* What edges from layers before `start` carry live: the parent's senders. */
  sendersBelow(setting, start, parent) {
    const below = edgesOf(setting).map((edit) => edit.sender).filter((sender) => Math.max(sender.layer, 0) < start);
    return new Map(below.map((sender) => [sender.name, this.sent(parent, sender)]));
  }

  /* What a node of a remembered run writes into the stream, without biases: [pos, d_model]. */
  sent(trace, node) {
    if (node.kind === "embed") return this.recorded(trace, [hookName("resid_pre", 0)]).get(hookName("resid_pre", 0));
    const kept = trace.kept.get(node.name);
    if (kept) return kept;
    const pass = this.pass(trace, trace.setting, { senders: this.sendersBelow(trace.setting, node.layer, trace) });
    pass.wanted = [node.name, ...pass.wanted];
    pass.through(node.layer, node.layer + 1);
    return this.keep(trace, node.name, pass.senders.get(node.name));
  }

  /* Activations of a remembered run by name, from the layers that they are in. */
  recorded(trace, names) {
    const missing = names.filter((name) => !trace.kept.has(name));
    const layers = new Map();
    for (const name of missing) {
      const layer = layerOf(name, this.config);
      layers.set(layer, [...(layers.get(layer) || []), name]);
    }
    for (const [layer, some] of layers) {
      const record = this.records(some, trace.n);
      if (layer < 0) this.recordEmbedding(record, trace.tokens);
      else this.recordLayer(trace, layer, record);
      for (const [name, values] of record) this.keep(trace, name, values);
    }
    return new Map(names.map((name) => [name, trace.kept.get(name)]));
  }

  recordLayer(trace, layer, record) {
    const senders = this.sendersBelow(trace.setting, layer, trace);
    const pass = this.pass(trace, trace.setting, { senders, record });
    if (layer < this.config.n_layers) pass.through(layer, layer + 1);
    else pass.logits(range(trace.n), new Float32Array(trace.n * this.config.d_vocab));
  }

  recordEmbedding(record, tokens) {
    const { heap, weights, config } = this.model;
    const d = config.d_model;
    for (const [name, into] of record) {
      tokens.forEach((id, r) => {
        const from = name === "hook_embed" ? weights.embed + id * d : weights.pos + r * d;
        into.set(heap.f32.subarray(from, from + d), r * d);
      });
    }
  }

  /* Empty arrays for activations that are asked for by name. */
  records(names, n) {
    return new Map(names.map((name) => {
      const shape = shapeOf(this.config, name, n);
      if (!shape) throw new Error(`there is no activation '${name}'; expected TransformerLens' name of a hook point, such as 'blocks.0.attn.hook_z'`);
      return [name, new Float32Array(shape.reduce((a, b) => a * b, 1))];
    }));
  }

  layerOf(name) {
    return layerOf(name, this.config);
  }

  shape(name, n) {
    return shapeOf(this.config, name, n);
  }

  keep(trace, name, values) {
    let size = this.traces.reduce((sum, one) => sum + keptIn(one), values.length);
    for (const one of [...this.traces].sort((a, b) => a.used - b.used)) {
      if (size <= KEPT_FLOATS || one === trace) continue;
      size -= keptIn(one);
      if (one.kept) one.kept.clear();
    }
    trace.kept.set(name, values);
    return values;
  }

  /* Logits at all rows of a remembered run. */
  logitsOf(trace) {
    if (!trace.logits) {
      const pass = this.pass(trace, trace.setting, { senders: this.sendersBelow(trace.setting, this.config.n_layers, trace) });
      trace.logits = pass.logits(range(trace.n), new Float32Array(trace.n * this.config.d_vocab));
    }
    return trace.logits;
  }

  /* A function that gives what takes an activation's place: {values, size} of an edit at a hook point. */
  putter(setting) {
    const cache = new Map();
    for (const edit of setting.edits) {
      for (const layer of edit.layers) {
        const name = edit.activation === "edge" ? "edge" : hookName(edit.activation, layer);
        if (!cache.has(edit)) cache.set(edit, new Map());
        cache.get(edit).set(name, this.source(setting, edit, name));
      }
    }
    return (edit, name) => cache.get(edit).get(name);
  }

  source(setting, edit, name) {
    const { kind } = edit.source;
    if (kind === "add") return { values: directionOf(this, setting, edit) };
    if (kind === "mean") return this.means.at(setting, edit, name);
    if (kind !== "other") return null;
    if (!setting.other) throw new Error("the source is 'other' and there is no other prompt; give one");
    const n = setting.tokens.length;
    if (setting.other.length !== n) {
      throw new Error(`the other prompt has ${setting.other.length} tokens and this one ${n}; 'other' needs as many`);
    }
    const trace = this.trace({ tokens: setting.other, edits: [], other: null, reference: null, key: "" });
    const values = edit.activation === "edge" ? this.sent(trace, edit.sender) : this.recorded(trace, [name]).get(name);
    return { values, size: n };
  }
}

function edgesOf({ edits }) {
  return edits.filter((edit) => edit.activation === "edge");
}

function same(a, b) {
  return a && a.length === b.length && a.every((id, i) => id === b[i]);
}

function keptIn(trace) {
  return trace.kept ? [...trace.kept.values()].reduce((sum, values) => sum + values.length, 0) : 0;
}

function layerOf(name, config) {
  if (name.startsWith("ln_final")) return config.n_layers;
  const match = /^blocks\.(\d+)\./.exec(name);
  return match ? Number(match[1]) : -1;
}

function emptyTrace(heap, config) {
  const [n, d] = [config.n_ctx, config.d_model];
  const resid = range(config.n_layers + 1).map(() => heap.alloc(n * d));
  const qkv = range(config.n_layers).map(() => heap.alloc(3 * n * d));
  return { resid, qkv, tokens: null, n: 0, key: null, kept: new Map(), logits: null, used: 0, pinned: 0 };
}

function scratchOf(heap, config, chunk) {
  const [n, d, m] = [config.n_ctx, config.d_model, config.d_mlp];
  const rows = Object.fromEntries(["stream", "out", "normed", "z", "sent", "edited"].map((name) => [name, heap.alloc(n * d)]));
  return { ...rows, pre: heap.alloc(n * m), post: heap.alloc(n * m), pattern: heap.alloc(n * n), scale: heap.alloc(n), logits: heap.alloc(chunk * config.d_vocab), chunk };
}

/* Copy the first rows of a trace's streams and queries, keys and values, from a layer on. */
function copyRows({ config, heap }, from, to, start, rows) {
  const d = config.d_model;
  for (let layer = start; layer <= config.n_layers; layer++) {
    heap.f32.copyWithin(to.resid[layer], from.resid[layer], from.resid[layer] + rows * d);
    if (layer < config.n_layers) heap.f32.copyWithin(to.qkv[layer], from.qkv[layer], from.qkv[layer] + rows * 3 * d);
  }
}
