/* Directions that interventions add: numbers as given, or what the model itself offers by name. */

import { SITES, hookName } from "./sites.js";

/* The numbers that an edit adds, before they are scaled. */
export function directionOf(engine, setting, edit) {
  const { add } = edit.source;
  if (add instanceof Array) return Float64Array.from(add);
  const numbers = namedDirection(engine, setting, add || {});
  const site = SITES[edit.activation];
  if ((site && site.unit !== null) || numbers.length !== engine.config.d_model) {
    throw new Error(`the direction has ${numbers.length} numbers, as the stream has ${engine.config.d_model}; it cannot be added to ${edit.activation}`);
  }
  return numbers;
}

/* {"token": id}, its unembedding, and {"neuron": [layer, neuron]}, what it writes, both of length one;
   {"difference": {activation, layer, pos}}, the other prompt's stream minus this one's; {"stored": name}. */
function namedDirection(engine, setting, add) {
  const { config, heap, weights } = engine.model;
  const [d, f] = [config.d_model, heap.f32];
  const row = (at, step) => unitLength(Float64Array.from({ length: d }, (_, i) => f[at + i * step]));
  if (Number.isInteger(add.token) && add.token >= 0 && add.token < config.d_vocab) return row(weights.unembed + add.token * d, 1);
  const [layer, neuron] = Array.isArray(add.neuron) ? add.neuron : [-1, -1];
  if (weights.layers[layer] && Number.isInteger(neuron) && neuron >= 0 && neuron < config.d_mlp) {
    return row(weights.layers[layer].out_w + neuron, config.d_mlp);
  }
  if (typeof add.stored === "string" && Object.hasOwn(engine.directions, add.stored)) return Float64Array.from(engine.directions[add.stored]);
  if (add.difference) return difference(engine, setting, add.difference);
  throw new Error(`there is no direction ${JSON.stringify(add)}; expected numbers, a token, a neuron, a difference or a stored name`);
}

function difference(engine, setting, { activation, layer, pos = -1 }) {
  const names = ["resid_pre", "resid_mid", "resid_post"];
  if (!names.includes(activation) || !(layer >= 0 && layer < engine.config.n_layers)) {
    throw new Error(`a difference is of ${names.join(", ")} at a layer; it is of ${activation} at ${layer}`);
  }
  if (!setting.other) throw new Error("a difference of two prompts needs the other prompt; give one");
  const d = engine.config.d_model;
  const name = hookName(activation, layer);
  const [clean, other] = [setting.tokens, setting.other].map((tokens) => {
    const trace = engine.trace({ tokens, edits: [], other: null, reference: null, key: "" });
    const row = pos < 0 ? pos + tokens.length : pos;
    if (!Number.isInteger(row) || row < 0 || row >= tokens.length) throw new Error(`there is no position ${pos} in ${tokens.length} tokens`);
    return engine.recorded(trace, [name]).get(name).slice(row * d, (row + 1) * d);
  });
  return Float64Array.from(other, (x, i) => x - clean[i]);
}

function unitLength(numbers) {
  const length = Math.hypot(...numbers);
  return numbers.map((x) => x / length);
}
