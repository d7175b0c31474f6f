/* nanoGPT's forward pass, from some layer and some position on, with edits on the way.

   A trace holds what a run can be continued from: the residual stream before every layer and after the last, and the
   queries, keys and values of every layer. A pass fills a trace: rows before `row` are there already. */

import { SITES, hookName, unitsOf } from "./sites.js";
import { applyEdit, applyToPattern } from "./edits.js";

const EPS = 1e-5;
const BLOCK = 32; // rows of a pattern that are computed together: columns after their last are not computed

export class Pass {
  /* model: {config, weights, heap, ops, scratch}; put(edit, hook name) gives what takes an activation's place */
  constructor(model, trace, { plan, put, row = 0, record = new Map(), senders = new Map(), wanted = [] }) {
    Object.assign(this, model);
    Object.assign(this, { trace, plan, put, row, record, senders, wanted });
    this.f = this.heap.f32;
    this.n = trace.n;
    this.rows = this.n - row;
  }

  /* Layers from `start` up to `end`. */
  through(start, end) {
    for (let layer = start; layer < end; layer++) this.block(layer);
    return this;
  }

  block(layer) {
    const { config, scratch, rows, row, f } = this;
    const d = config.d_model;
    const size = rows * d;
    const from = this.trace.resid[layer] + row * d;
    f.copyWithin(scratch.stream, from, from + size);
    this.site("resid_pre", layer, scratch.stream, d);
    if (layer === 0 && this.wanted.includes("embed")) this.senders.set("embed", this.allRows(scratch.stream));
    this.attention(layer);
    this.site("attn_out", layer, scratch.out, d);
    for (let i = 0; i < size; i++) f[scratch.stream + i] += f[scratch.out + i];
    this.site("resid_mid", layer, scratch.stream, d);
    this.mlp(layer);
    this.site("mlp_out", layer, scratch.out, d);
    if (this.wanted.includes(`mlp${layer}`)) this.senders.set(`mlp${layer}`, this.withoutBias(layer));
    const to = this.trace.resid[layer + 1] + row * d;
    for (let i = 0; i < size; i++) f[to + i] = f[scratch.stream + i] + f[scratch.out + i];
    this.site("resid_post", layer, to, d);
  }

  attention(layer) {
    const { config, ops, scratch, rows, row } = this;
    const w = this.weights.layers[layer];
    const [d, dh] = [config.d_model, config.d_head];
    const qkv = this.trace.qkv[layer] + row * 3 * d;
    this.norm(scratch.stream, w.ln1_w, w.ln1_b, scratch.normed, `blocks.${layer}.ln1`);
    ops.nt(scratch.normed, d, w.attn_w, d, w.attn_b, qkv, 3 * d, rows, 3 * d, d);
    this.edgesInto(layer, (end) => end.part, (end, x) => {
      const part = "qkv".indexOf(end.part) * d + end.head * dh;
      ops.nt(x, d, w.attn_w + part * d, d, w.attn_b < 0 ? -1 : w.attn_b + part, qkv + part, 3 * d, rows, dh, d);
    });
    ["q", "k", "v"].forEach((name, part) => this.site(name, layer, qkv + part * d, 3 * d));
    for (let head = 0; head < config.n_heads; head++) this.attend(layer, head);
    this.site("z", layer, scratch.z, d);
    for (let head = 0; head < config.n_heads; head++) this.keepHead(layer, head);
    ops.nt(scratch.z, d, w.proj_w, d, w.proj_b, scratch.out, d, rows, d, d);
  }

  /* One head: its pattern, and z = pattern times its values. */
  attend(layer, head) {
    const { config, ops, scratch, n, row, rows, trace } = this;
    const [d, dh] = [config.d_model, config.d_head];
    const q = trace.qkv[layer] + head * dh;
    const [k, v] = [q + d, q + 2 * d];
    for (let first = row; first < n; first += BLOCK) {
      const [count, end] = [Math.min(BLOCK, n - first), Math.min(first + BLOCK, n)];
      ops.nt(q + first * 3 * d, 3 * d, k, 3 * d, -1, scratch.pattern + (first - row) * n, n, count, end, dh);
    }
    this.keepScores(layer, head);
    ops.softmax(scratch.pattern, n, rows, row, n, 1 / Math.sqrt(dh));
    const edits = this.plan.sites.get(`pattern.${layer}`) || [];
    const name = hookName("pattern", layer);
    for (const edit of edits) {
      const put = this.put(edit, name);
      const view = { at: scratch.pattern, stride: n, first: row, end: n, columns: n };
      applyToPattern(this.f, edit, view, head, put && put.values, put && put.size);
    }
    if (this.record.has(name)) this.record.get(name).set(this.heap.copyOut(scratch.pattern, n * n), head * n * n);
    ops.nn(scratch.pattern, n, v, 3 * d, scratch.z + head * dh, d, rows, dh, n, edits.length ? -1 : row);
  }

  keepScores(layer, head) {
    const kept = this.record.get(`blocks.${layer}.attn.hook_attn_scores`);
    if (!kept) return;
    const factor = 1 / Math.sqrt(this.config.d_head);
    for (let i = 0; i < this.n; i++) {
      for (let j = 0; j < this.n; j++) {
        kept[(head * this.n + i) * this.n + j] = j > i ? -Infinity : this.f[this.scratch.pattern + i * this.n + j] * factor;
      }
    }
  }

  mlp(layer) {
    const { config, ops, scratch, rows, weights } = this;
    const w = weights.layers[layer];
    const [d, m] = [config.d_model, config.d_mlp];
    this.norm(scratch.stream, w.ln2_w, w.ln2_b, scratch.normed, `blocks.${layer}.ln2`);
    const read = (x) => ops.nt(x, d, w.in_w, d, w.in_b, scratch.pre, m, rows, m, d);
    read(scratch.normed);
    this.edgesInto(layer, (end) => end.kind === "mlp", (_, x) => read(x));
    this.site("mlp_pre", layer, scratch.pre, m);
    ops.gelu(scratch.pre, scratch.post, rows * m, config.act_fn !== "gelu");
    this.site("mlp_post", layer, scratch.post, m);
    ops.nt(scratch.post, m, w.out_w, m, w.out_b, scratch.out, d, rows, d, m);
  }

  norm(x, weight, bias, out, name) {
    const { config, scratch, rows } = this;
    this.ops.norm(x, weight, bias, out, scratch.scale, rows, config.d_model, EPS);
    this.keep(`${name}.hook_scale`, scratch.scale, 1, 1);
    const unit = this.record.get(`${name}.hook_normalized`);
    if (!unit) return;
    this.ops.norm(x, -1, -1, scratch.sent, -1, rows, config.d_model, EPS); // before weight and bias
    unit.set(this.heap.copyOut(scratch.sent, rows * config.d_model), this.row * config.d_model);
  }

  /* The edits of one hook point, and what is kept of it. */
  site(activation, layer, at, stride) {
    const name = hookName(activation, layer);
    const units = unitsOf(this.config, activation);
    for (const edit of this.plan.sites.get(`${activation}.${layer}`) || []) {
      const put = this.put(edit, name);
      applyEdit(this.f, edit, { at, stride, first: this.row, end: this.n }, units, put && put.values);
    }
    this.keep(name, at, stride, units.count * units.width);
  }

  keep(name, at, stride, width) {
    const kept = this.record.get(name);
    if (!kept) return;
    for (let i = 0; i < this.rows; i++) {
      kept.set(this.f.subarray(at + i * stride, at + i * stride + width), (this.row + i) * width);
    }
  }

  /* What a head writes into the stream in this run, where an edge needs it, without the bias, which is nobody's. */
  keepHead(layer, head) {
    const name = `${layer}.${head}`;
    if (!this.wanted.includes(name)) return;
    const { config, ops, scratch, rows, weights } = this;
    const [d, dh] = [config.d_model, config.d_head];
    ops.nt(scratch.z + head * dh, d, weights.layers[layer].proj_w + head * dh, d, -1, scratch.sent, d, rows, d, dh);
    this.senders.set(name, this.allRows(scratch.sent));
  }

  /* What an MLP writes, likewise. */
  withoutBias(layer) {
    const { config, scratch, weights, row, f } = this;
    const rows = this.allRows(scratch.out);
    const bias = weights.layers[layer].out_b;
    if (bias >= 0) for (let i = row * config.d_model; i < rows.length; i++) rows[i] -= f[bias + (i % config.d_model)];
    return rows;
  }

  /* A stream [pos, d_model] out of the heap; rows before `row` are zero and nobody reads them. */
  allRows(at) {
    const d = this.config.d_model;
    const rows = new Float32Array(this.n * d);
    rows.set(this.f.subarray(at, at + this.rows * d), this.row * d);
    return rows;
  }

  /* Receivers of a layer whose edges are edited: `read(receiver, x)` reads the normed, edited stream at x. */
  edgesInto(layer, mine, read) {
    const { config, scratch, rows } = this;
    const edges = this.plan.edges.get(layer) || [];
    const byEnd = new Map();
    for (const edit of edges) {
      for (const end of edit.receivers.filter(mine)) {
        const key = `${end.name}.${end.part}`;
        byEnd.set(key, { end, edits: [...(byEnd.has(key) ? byEnd.get(key).edits : []), edit] });
      }
    }
    const w = this.weights.layers[layer];
    for (const { end, edits } of byEnd.values()) {
      this.edited(scratch.stream, edits);
      const [weight, bias] = end.part ? [w.ln1_w, w.ln1_b] : [w.ln2_w, w.ln2_b];
      this.ops.norm(scratch.edited, weight, bias, scratch.sent, -1, rows, config.d_model, EPS);
      read(end, scratch.sent);
    }
  }

  /* The stream as one receiver sees it, in scratch.edited: what senders wrote, exchanged for what edits say. */
  edited(stream, edits) {
    const { config, scratch, rows, row, f } = this;
    const d = config.d_model;
    f.copyWithin(scratch.edited, stream, stream + rows * d);
    for (const name of new Set(edits.map((edit) => edit.sender.name))) {
      const wrote = this.senders.get(name);
      const reads = wrote.slice();
      for (const edit of edits) if (edit.sender.name === name) exchange(reads, edit, this.put(edit, "edge"), row, d);
      for (let i = 0; i < rows * d; i++) f[scratch.edited + i] += reads[row * d + i] - wrote[row * d + i];
    }
  }

  /* Logits of some rows, into an array [row, vocab]; the final LayerNorm's input with the edges into the logits. */
  logits(rows, into) {
    const { config, ops, scratch, weights, trace, row } = this;
    const [d, vocab] = [config.d_model, config.d_vocab];
    const last = trace.resid[config.n_layers];
    const edges = this.plan.edges.get(config.n_layers);
    if (edges) this.edited(last + row * d, edges);
    for (let i = 0; i < rows.length; i += scratch.chunk) {
      const some = rows.slice(i, i + scratch.chunk);
      some.forEach((r, j) => {
        const x = edges && r >= row ? scratch.edited + (r - row) * d : last + r * d;
        ops.norm(x, weights.lnf_w, weights.lnf_b, scratch.normed + j * d, scratch.scale + j, 1, d, EPS);
        this.keepFinal(r, j, x);
      });
      ops.nt(scratch.normed, d, weights.unembed, d, weights.unembed_b, scratch.logits, vocab, some.length, vocab, d);
      into.set(this.f.subarray(scratch.logits, scratch.logits + some.length * vocab), i * vocab);
    }
    return into;
  }

  keepFinal(row, j, x) {
    const { scratch, config } = this;
    const d = config.d_model;
    const unit = this.record.get("ln_final.hook_normalized");
    const scale = this.record.get("ln_final.hook_scale");
    if (unit) {
      this.ops.norm(x, -1, -1, scratch.sent, -1, 1, d, EPS);
      unit.set(this.f.subarray(scratch.sent, scratch.sent + d), row * d);
    }
    if (scale) scale[row] = this.f[scratch.scale + j];
  }
}

/* What a receiver reads of a sender, [pos, d_model], at the rows of an edit from `first` on. */
function exchange(reads, edit, put, first, d) {
  const { kind, scale } = edit.source;
  const offset = edit.offset || 0;
  for (const r of edit.rows || Array.from({ length: reads.length / d }, (_, i) => i)) {
    for (let i = 0; r >= first && i < d; i++) {
      if (kind === "zero") reads[r * d + i] = 0;
      else if (kind === "scale") reads[r * d + i] *= scale;
      else if (kind === "add") reads[r * d + i] += scale * put.values[i];
      else reads[r * d + i] = put.values[kind === "mean" ? i : (r + offset) * d + i];
    }
  }
}

/* The shape of each activation that can be asked for, for a text of n tokens; null where there is none of the name. */
export function shapeOf(config, name, n) {
  const { n_heads, d_head, d_model, d_mlp } = config;
  if (name === "hook_embed" || name === "hook_pos_embed" || name === "ln_final.hook_normalized") return [n, d_model];
  if (name === "ln_final.hook_scale") return [n, 1];
  const match = /^blocks\.(\d+)\.(.+)$/.exec(name);
  if (!match || Number(match[1]) >= config.n_layers) return null;
  if (["ln1.hook_scale", "ln2.hook_scale"].includes(match[2])) return [n, 1];
  if (["ln1.hook_normalized", "ln2.hook_normalized"].includes(match[2])) return [n, d_model];
  if (["attn.hook_pattern", "attn.hook_attn_scores"].includes(match[2])) return [n_heads, n, n];
  const site = Object.values(SITES).find((one) => one.hook === match[2]);
  if (!site) return null;
  return site.unit === "head" ? [n, n_heads, d_head] : site.unit === "neuron" ? [n, d_mlp] : [n, d_model];
}
