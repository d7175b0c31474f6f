/* Direct logit attribution: what each head and each MLP adds to a difference of logits at one position.

   The final LayerNorm's scale is taken as it is, so that the contributions of all parts add up to the whole; what the
   biases add, and whatever an intervention put into the stream itself, is the rest. */

import { range } from "./sites.js";

/* {embed, heads [layer][head], mlps [layer], biases, total} */
export function contributionsOf(model, metric, total, scale, streams) {
  const { config, heap, weights } = model;
  const f = heap.f32;
  const [d, m, dh, row] = [config.d_model, config.d_mlp, config.d_head, metric.row];
  const read = readOf(model, metric).map((x) => x / scale);
  const through = (weight, stride, first, count, input) => {
    let sum = 0;
    for (let j = 0; j < count; j++) {
      let column = 0;
      for (let i = 0; i < d; i++) column += f[weight + i * stride + first + j] * read[i];
      sum += column * input[j];
    }
    return sum;
  };
  const embed = read.reduce((sum, x, i) => sum + x * streams.embed[row * d + i], 0);
  const heads = range(config.n_layers).map((layer) => range(config.n_heads).map((head) => {
    const z = streams.z[layer].subarray(row * d + head * dh, row * d + (head + 1) * dh);
    return through(weights.layers[layer].proj_w, d, head * dh, dh, z);
  }));
  const mlps = range(config.n_layers).map((layer) => {
    return through(weights.layers[layer].out_w, m, 0, m, streams.post[layer].subarray(row * m, (row + 1) * m));
  });
  const parts = [embed, ...heads.flat(), ...mlps].reduce((a, b) => a + b, 0);
  return { embed, heads, mlps, biases: total - parts, total };
}

/* The direction of the stream that the difference of logits reads, the final LayerNorm's centring and weight with it. */
function readOf(model, { answer, wrong }) {
  const { config, heap, weights } = model;
  const [f, d, vocab] = [heap.f32, config.d_model, config.d_vocab];
  const read = Float64Array.from({ length: d }, (_, i) => {
    const gain = weights.lnf_w < 0 ? 1 : f[weights.lnf_w + i];
    let against = 0;
    if (wrong !== null) against = f[weights.unembed + wrong * d + i];
    else for (let id = 0; id < vocab; id++) against += f[weights.unembed + id * d + i] / vocab;
    return gain * (f[weights.unembed + answer * d + i] - against);
  });
  const mean = read.reduce((a, b) => a + b, 0) / d;
  return read.map((x) => x - mean);
}
