/* The engine's memory, and its arithmetic on it: by the WebAssembly kernel, or in plain JavaScript.

   Everything lies in one Float32Array; a place in it is an index, and -1 means "there is none". The functions are those
   of kernel.c: nt (a times b transposed), nn (a times b), norm (LayerNorm), softmax, gelu. */

const FIRST_FREE = 16384; // the kernel's stack lies in the first 64 KiB
const PAGE = 65536; // bytes of a page of WebAssembly's memory

/* Numbers are laid one after the other; nothing is given back. */
export class Heap {
  constructor(simd, floats) {
    const bytes = 4 * (floats + FIRST_FREE);
    if (simd) this.memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE) });
    this.buffer = simd ? this.memory.buffer : new ArrayBuffer(bytes);
    this.f32 = new Float32Array(this.buffer);
    this.next = FIRST_FREE;
  }

  alloc(floats) {
    const at = this.next;
    this.next += Math.ceil(floats / 4) * 4;
    if (4 * this.next > this.buffer.byteLength) throw new Error("the engine asked for more memory than it had planned");
    return at;
  }

  take(numbers) {
    const at = this.alloc(numbers.length);
    this.f32.set(numbers, at);
    return at;
  }

  copyOut(at, length) {
    return this.f32.slice(at, at + length);
  }
}

/* The Taylor series of erf at steps of 1/64 from 0 to 6: its value and four coefficients. The value at each step comes
   from the one before, by twenty terms; derivatives of exp(-x^2) follow from the two before them. */
export function erfTable() {
  const table = new Float64Array(5 * 386);
  let value = 0;
  for (let i = 0; i < 386; i++) {
    const x = i / 64;
    table[5 * i] = value;
    let [before, derivative, factorial] = [0, (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x), 1];
    for (let n = 0; n < 20; n++) {
      factorial *= n + 1;
      const coefficient = derivative / factorial;
      if (n < 4) table[5 * i + n + 1] = coefficient;
      value += coefficient / 64 ** (n + 1);
      [before, derivative] = [derivative, -2 * x * derivative - 2 * n * before];
    }
  }
  return table;
}

/* The kernel's functions, taking indices into the heap. */
export async function simdOps(heap, kernelBytes) {
  const { instance } = await WebAssembly.instantiate(kernelBytes, { env: { memory: heap.memory } });
  const { nt, nn, norm, softmax, gelu } = instance.exports;
  const table = erfTable();
  const at = heap.alloc(2 * table.length);
  new Float64Array(heap.buffer, 4 * at, table.length).set(table);
  const byte = (index) => (index < 0 ? 0 : 4 * index);
  return {
    nt: (a, lda, b, ldb, bias, c, ldc, m, n, k) => nt(4 * a, lda, 4 * b, ldb, byte(bias), 4 * c, ldc, m, n, k),
    nn: (a, lda, b, ldb, c, ldc, m, n, k, causal) => nn(4 * a, lda, 4 * b, ldb, 4 * c, ldc, m, n, k, causal),
    norm: (x, w, b, out, scale, rows, d, eps) => norm(4 * x, byte(w), byte(b), 4 * out, byte(scale), rows, d, eps),
    softmax: (s, lds, rows, first, n, factor) => softmax(4 * s, lds, rows, first, n, factor),
    gelu: (x, out, count, tanh) => gelu(4 * x, 4 * out, count, tanh ? 1 : 0, 4 * at),
  };
}

/* The same in plain JavaScript, whose sums are float64. */
export function plainOps(heap) {
  const f = heap.f32;
  const table = erfTable();
  return {
    nt: (a, lda, b, ldb, bias, c, ldc, m, n, k) => plainNt(f, a, lda, b, ldb, bias, c, ldc, m, n, k),
    nn: (a, lda, b, ldb, c, ldc, m, n, k, causal) => plainNn(f, a, lda, b, ldb, c, ldc, m, n, k, causal),
    norm: (x, w, b, out, scale, rows, d, eps) => plainNorm(f, x, w, b, out, scale, rows, d, eps),
    softmax: (s, lds, rows, first, n, factor) => plainSoftmax(f, s, lds, rows, first, n, factor),
    gelu: (x, out, count, tanh) => plainGelu(f, x, out, count, tanh, table),
  };
}

/* Four rows of a at a time, so that each row of b is read a quarter as often. */
function plainNt(f, a, lda, b, ldb, bias, c, ldc, m, n, k) {
  let i = 0;
  for (; i + 4 <= m; i += 4) {
    const [a0, a1, a2, a3] = [a + i * lda, a + (i + 1) * lda, a + (i + 2) * lda, a + (i + 3) * lda];
    for (let j = 0; j < n; j++) {
      const row = b + j * ldb;
      const plus = bias < 0 ? 0 : f[bias + j];
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      for (let t = 0; t < k; t++) {
        const y = f[row + t];
        s0 += f[a0 + t] * y;
        s1 += f[a1 + t] * y;
        s2 += f[a2 + t] * y;
        s3 += f[a3 + t] * y;
      }
      const at = c + i * ldc + j;
      f[at] = s0 + plus;
      f[at + ldc] = s1 + plus;
      f[at + 2 * ldc] = s2 + plus;
      f[at + 3 * ldc] = s3 + plus;
    }
  }
  for (; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = bias < 0 ? 0 : f[bias + j];
      for (let t = 0; t < k; t++) sum += f[a + i * lda + t] * f[b + j * ldb + t];
      f[c + i * ldc + j] = sum;
    }
  }
}

function plainNn(f, a, lda, b, ldb, c, ldc, m, n, k, causal) {
  const sums = new Float64Array(n);
  for (let i = 0; i < m; i++) {
    const end = causal >= 0 ? Math.min(k, causal + i + 1) : k;
    sums.fill(0);
    for (let s = 0; s < end; s++) {
      const x = f[a + i * lda + s];
      const row = b + s * ldb;
      for (let j = 0; j < n; j++) sums[j] += x * f[row + j];
    }
    for (let j = 0; j < n; j++) f[c + i * ldc + j] = sums[j];
  }
}

function plainNorm(f, x, weight, bias, out, scale, rows, d, eps) {
  for (let i = 0; i < rows; i++) {
    const [from, to] = [x + i * d, out + i * d];
    let [mean, square] = [0, 0];
    for (let j = 0; j < d; j++) mean += f[from + j];
    mean /= d;
    for (let j = 0; j < d; j++) square += (f[from + j] - mean) ** 2;
    const root = Math.sqrt(square / d + eps);
    if (scale >= 0) f[scale + i] = root;
    for (let j = 0; j < d; j++) {
      f[to + j] = ((f[from + j] - mean) / root) * (weight < 0 ? 1 : f[weight + j]) + (bias < 0 ? 0 : f[bias + j]);
    }
  }
}

function plainSoftmax(f, s, lds, rows, first, n, factor) {
  for (let i = 0; i < rows; i++) {
    const row = s + i * lds;
    const end = first + i + 1;
    let [most, sum] = [f[row], 0];
    for (let j = 1; j < end; j++) most = Math.max(most, f[row + j]);
    for (let j = 0; j < end; j++) sum += f[row + j] = Math.exp((f[row + j] - most) * factor);
    for (let j = 0; j < end; j++) f[row + j] /= sum;
    for (let j = end; j < n; j++) f[row + j] = 0;
  }
}

function erfOf(x, table) {
  const size = Math.abs(x);
  if (size >= 6) return Math.sign(x);
  const i = Math.round(size * 64);
  const c = 5 * i;
  const d = size - i / 64;
  return Math.sign(x) * (table[c] + d * (table[c + 1] + d * (table[c + 2] + d * (table[c + 3] + d * table[c + 4]))));
}

function plainGelu(f, x, out, count, tanh, table) {
  for (let i = 0; i < count; i++) {
    const v = f[x + i];
    const inner = tanh ? Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)) : erfOf(v * Math.SQRT1_2, table);
    f[out + i] = 0.5 * v * (1 + inner);
  }
}
