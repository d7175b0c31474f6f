/* What can be asked of the engine: a run, a sweep over many interventions, the lens, direct contributions, a sample. */

import { SITES, hookName, plainName, range, resolveAll } from "./sites.js";
import { firstLayer, firstRow } from "./edits.js";
import { contributionsOf } from "./contributions.js";
import { Sampling } from "./sampling.js";
import { proveEqual } from "./proof.js";

/* engine: an Engine; breathe: an async function that lets others work, and throws where the job was cancelled */
export const TASKS = {
  async run(engine, request) {
    const began = performance.now();
    const { pass, base, setting, activations } = ran(engine, request, hookNames(engine, request.activations || []));
    const logits = engine.logitsOf(base).slice();
    if (pass) pass.logits(range(setting.tokens.length).slice(pass.row), logits.subarray(pass.row * engine.config.d_vocab));
    const n = setting.tokens.length;
    const kept = [...activations()].map(([name, data]) => [name, { data, shape: engine.shape(name, n) }]);
    return { logits: { data: logits, shape: [n, engine.config.d_vocab] }, activations: Object.fromEntries(kept), ms: performance.now() - began };
  },

  async sweep(engine, request, { breathe, progress }) {
    const began = performance.now();
    const setting = engine.prepare(request);
    const metric = metricOf(engine, request.metric, setting.tokens.length);
    const parent = engine.trace(setting);
    parent.pinned += 1;
    try {
      const vocab = engine.config.d_vocab;
      const base = metric.of(engine.logitsOf(parent).subarray(metric.row * vocab, (metric.row + 1) * vocab));
      const values = new Float64Array(request.candidates.length);
      for (let i = 0; i < values.length; i++) {
        values[i] = candidateValue(engine, parent, setting, request.candidates[i], metric, base);
        progress(i + 1, values.length);
        await breathe();
      }
      return { values, base, ms: performance.now() - began };
    } finally {
      parent.pinned -= 1;
    }
  },

  async lens(engine, request) {
    const layers = range(engine.config.n_layers);
    const points = layers.flatMap((layer) => [["resid_mid", layer], ["resid_post", layer]]);
    const names = points.map(([site, layer]) => hookName(site, layer));
    const { setting, activations } = ran(engine, request, names);
    const n = setting.tokens.length;
    const streams = activations();
    const [top, prob] = [new Int32Array(names.length * n), new Float32Array(names.length * n)];
    const answer = Number.isInteger(request.answer) ? new Float32Array(names.length * n) : null;
    names.forEach((name, i) => readStream(engine, streams.get(name), n, (row, logits) => {
      const p = probabilities(logits, engine.config.n_tokens);
      top[i * n + row] = p.reduce((best, x, id) => (x > p[best] ? id : best), 0);
      prob[i * n + row] = p[top[i * n + row]];
      if (answer) answer[i * n + row] = p[request.answer];
    }));
    const rows = points.map(([site, layer]) => `${layer} ${site === "resid_mid" ? "attn" : "mlp"}`);
    return { rows, top, prob, answer, shape: [names.length, n] };
  },

  async contributions(engine, request) {
    const layers = range(engine.config.n_layers);
    const [z, post] = ["z", "mlp_post"].map((site) => layers.map((layer) => hookName(site, layer)));
    const first = hookName("resid_pre", 0);
    const { pass, base, setting, activations } = ran(engine, request, [...z, ...post, first, "ln_final.hook_scale"]);
    const metric = metricOf(engine, { ...request.metric, contrast: true }, setting.tokens.length);
    const vocab = engine.config.d_vocab;
    const logits = pass ? pass.logits([metric.row], new Float32Array(vocab)) : engine.logitsOf(base).subarray(metric.row * vocab, (metric.row + 1) * vocab);
    const kept = activations();
    const scale = kept.get("ln_final.hook_scale")[metric.row];
    const streams = { embed: kept.get(first), z: z.map((name) => kept.get(name)), post: post.map((name) => kept.get(name)) };
    return contributionsOf(engine.model, metric, metric.of(logits), scale, streams);
  },

  async sample(engine, request, { breathe, token }) {
    const sampling = new Sampling(engine, request);
    try {
      for (let i = 0; i < request.n; i++) {
        token(await sampling.next(breathe));
      }
      return { ids: Int32Array.from(sampling.drawn) };
    } finally {
      sampling.end();
    }
  },

  async prove(engine, { cases }, io) {
    return proveEqual(cases, io, (request) => TASKS.run(engine, request));
  },
};

/* A run with a request's interventions: the pass (null where there is none), the run without, and a function that gives
   the activations by name. The final LayerNorm's are there once the logits are. */
function ran(engine, request, names) {
  const setting = engine.prepare(request);
  const plain = { ...setting, edits: [], key: "" };
  const base = engine.trace(plain);
  if (!setting.edits.length) return { pass: null, base, setting, activations: () => engine.recorded(base, names) };
  const start = firstLayer(setting.edits, engine.config.n_layers);
  const changed = names.filter((name) => engine.layerOf(name) >= start);
  const record = engine.records(changed, setting.tokens.length);
  base.pinned += 1;
  const pass = engine.continued(base, setting, setting.edits, record);
  base.pinned -= 1;
  if (changed.some((name) => name.startsWith("ln_final"))) {
    pass.logits(range(setting.tokens.length), new Float32Array(setting.tokens.length * engine.config.d_vocab));
  }
  const unchanged = names.filter((name) => !record.has(name));
  const all = () => new Map([...record, ...engine.recorded(base, unchanged)]);
  return { pass, base, setting, activations: all };
}

/* Names of hook points; "z" and the like stand for those of all layers, as in `ngl.intervene`. */
function hookNames(engine, names) {
  const layers = range(engine.config.n_layers);
  return names.flatMap((name) => (SITES[plainName(name)] ? layers.map((layer) => hookName(plainName(name), layer)) : [name]));
}

function candidateValue(engine, parent, setting, candidate, metric, base) {
  const fresh = resolveAll(engine.config, candidate, setting.tokens.length);
  if (!fresh.length || firstRow(fresh, setting.tokens.length) > metric.row) return base;
  const pass = engine.continued(parent, { ...setting, edits: [...setting.edits, ...fresh] }, fresh);
  return metric.of(pass.logits([metric.row], new Float32Array(engine.config.d_vocab)));
}

/* What is measured at one row of logits. With `contrast` and no wrong answer: the logit minus the mean logit. */
function metricOf(engine, { pos = -1, answer, wrong = null, contrast = false }, n) {
  const row = pos < 0 ? pos + n : pos;
  const { d_vocab } = engine.config;
  if (!Number.isInteger(row) || row < 0 || row >= n) throw new Error(`there is no position ${pos} in ${n} tokens; expected ${-n} to ${n - 1}`);
  const absent = [answer, wrong ?? answer].find((id) => !Number.isInteger(id) || id < 0 || id >= d_vocab);
  if (absent !== undefined) throw new Error(`the answer ${absent} is no token; expected 0 to ${d_vocab - 1}`);
  const of = (logits) => {
    if (wrong !== null) return logits[answer] - logits[wrong];
    return logits[answer] - (contrast ? logits.reduce((a, b) => a + b, 0) / logits.length : logSumExp(logits));
  };
  return { row, answer, wrong, of };
}

export function logSumExp(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  return most + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - most), 0));
}

/* The probabilities of the first `count` tokens among all. */
function probabilities(logits, count) {
  const total = logSumExp(logits);
  return Float64Array.from(logits.subarray(0, count), (x) => Math.exp(x - total));
}

/* The logits that the final LayerNorm and the unembedding make of each row of a stream [pos, d_model]. */
function readStream(engine, stream, n, use) {
  const { config, heap, ops, weights, scratch } = engine.model;
  const [d, vocab] = [config.d_model, config.d_vocab];
  heap.f32.set(stream, scratch.stream);
  ops.norm(scratch.stream, weights.lnf_w, weights.lnf_b, scratch.normed, -1, n, d, 1e-5);
  for (let row = 0; row < n; row += scratch.chunk) {
    const rows = Math.min(scratch.chunk, n - row);
    ops.nt(scratch.normed + row * d, d, weights.unembed, d, weights.unembed_b, scratch.logits, vocab, rows, vocab, d);
    for (let i = 0; i < rows; i++) use(row + i, heap.copyOut(scratch.logits + i * vocab, vocab));
  }
}
