/* The model's weights: from the bytes that Python packed to places in the engine's memory. */

/* The bytes as they were before gzip; bytes that are not packed come back as they are. */
export async function unpacked(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/* By name the numbers of each tensor, as views of the bytes. */
export function tensorsOf(index, bytes) {
  const tensors = {};
  for (const { name, shape, dtype, offset } of index) {
    const Type = dtype === "float64" ? Float64Array : Float32Array;
    const length = shape.reduce((product, size) => product * size, 1);
    if (offset + length * Type.BYTES_PER_ELEMENT > bytes.length) throw new Error(`the file is damaged: ${name} is cut off`);
    tensors[name] = new Type(bytes.buffer, bytes.byteOffset + offset, length);
  }
  return tensors;
}

/* Where each weight of the model lies in the heap; -1 where the model has none. */
export function placed(heap, config, tensors) {
  const take = (name) => (tensors[name] ? heap.take(tensors[name]) : -1);
  const parts = ["ln1_w", "ln1_b", "attn_w", "attn_b", "proj_w", "proj_b", "ln2_w", "ln2_b", "in_w", "in_b", "out_w", "out_b"];
  const layers = [];
  for (let layer = 0; layer < config.n_layers; layer++) {
    layers.push(Object.fromEntries(parts.map((part) => [part, take(`${layer}.${part}`)])));
  }
  const embed = take("embed");
  const unembed = tensors.unembed ? take("unembed") : embed;
  return { embed, pos: take("pos"), lnf_w: take("lnf_w"), lnf_b: take("lnf_b"), unembed, unembed_b: take("unembed_b"), layers };
}

/* How many numbers the weights take. */
export function sizeOf(tensors) {
  return Object.values(tensors).reduce((sum, tensor) => sum + tensor.length + 4, 0);
}
