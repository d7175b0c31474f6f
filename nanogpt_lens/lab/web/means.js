/* Mean activations over the reference sequences, computed once, when first asked for.

   Over examples and positions; of a pattern over examples alone, so that its rows still sum to one, and cut to the
   text's length, which attention to earlier positions alone makes exact. */

import { SITES, hookName, range, unitsOf } from "./sites.js";
import { planOf } from "./edits.js";
import { Pass } from "./forward.js";

export class Means {
  constructor(engine, reference) {
    this.engine = engine;
    this.reference = reference;
    this.byReference = new Map();
  }

  /* {values, size} of the mean that an edit puts in place. */
  at(setting, edit, name) {
    const reference = setting.reference || this.reference;
    if (edit.activation !== "pattern") {
      const means = this.of(reference, "activations");
      return { values: edit.activation === "edge" ? this.sender(means, edit.sender) : means.get(name) };
    }
    const size = reference.length && reference[0].length;
    if (size < setting.tokens.length) {
      throw new Error(`the reference has ${size} positions and the prompt ${setting.tokens.length}; a mean pattern needs as many`);
    }
    return { values: this.of(reference, "patterns").get(name), size };
  }

  /* By hook point the means of all activations, or of all patterns. */
  of(reference, what) {
    const key = what + JSON.stringify(reference);
    if (!this.byReference.has(key)) {
      if (this.byReference.size > 4) this.byReference.clear();
      this.byReference.set(key, this.compute(reference, what));
    }
    return this.byReference.get(key);
  }

  compute(reference, what) {
    const { engine } = this;
    const sites = what === "patterns" ? ["pattern"] : Object.keys(SITES).filter((name) => name !== "pattern");
    const layers = range(engine.config.n_layers);
    const names = layers.flatMap((layer) => sites.map((site) => hookName(site, layer)));
    if (!reference || !reference.length) throw new Error("there are no reference sequences to take a mean over; give reference");
    const sums = new Map();
    for (const row of reference) {
      const tokens = engine.checkTokens(row, "the reference");
      if (tokens.length !== reference[0].length) throw new Error("the reference's sequences have different lengths; expected one length");
      const record = engine.records(names, tokens.length);
      Object.assign(engine.spare, { tokens, n: tokens.length, key: null });
      engine.embed(engine.spare, 0);
      new Pass(engine.model, engine.spare, { plan: planOf([]), put: null, record }).through(0, layers.length);
      for (const name of names) addTo(sums, name, record.get(name), what === "patterns" ? 1 : tokens.length);
    }
    const rows = reference.length * (what === "patterns" ? 1 : reference[0].length);
    for (const sum of sums.values()) sum.forEach((x, i) => (sum[i] = x / rows));
    return sums;
  }

  /* The mean of what a node writes into the stream, without biases: linear in the mean of what it is made from. */
  sender(means, node) {
    const { config, heap, weights } = this.engine.model;
    if (node.kind === "embed") return means.get(hookName("resid_pre", 0));
    const layer = weights.layers[node.layer];
    if (node.kind === "mlp") {
      const bias = (i) => (layer.out_b < 0 ? 0 : heap.f32[layer.out_b + i]);
      return means.get(hookName("mlp_out", node.layer)).map((x, i) => x - bias(i));
    }
    const z = means.get(hookName("z", node.layer));
    const { width } = unitsOf(config, "z");
    return Float64Array.from({ length: config.d_model }, (_, i) => {
      let sum = 0;
      for (let j = node.head * width; j < (node.head + 1) * width; j++) sum += heap.f32[layer.proj_w + i * config.d_model + j] * z[j];
      return sum;
    });
  }
}

/* Add the rows of an activation, [rows, width], to the sum of its name. */
function addTo(sums, name, values, rows) {
  const width = values.length / rows;
  if (!sums.has(name)) sums.set(name, new Float64Array(width));
  const sum = sums.get(name);
  for (let i = 0; i < values.length; i++) sum[i % width] += values[i];
}
