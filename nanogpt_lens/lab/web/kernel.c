/* The engine's arithmetic for WebAssembly with SIMD: matrix products, LayerNorm, softmax and GELU.

   clang --target=wasm32 -O3 -msimd128 -nostdlib -fno-builtin -Wl,--no-entry -Wl,--import-memory -Wl,--stack-first \
         -Wl,-z,stack-size=4096 -Wl,--strip-all -o kernel.wasm kernel.c

   The memory is the page's: every pointer is an offset into it, and nothing is allocated here. Products are float32 in
   four lanes; sums over a row, exp and erf are float64. `ops.js` has the same functions in JavaScript. */
#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(#name)))

static inline float total(v128_t v) {
  v128_t halves = wasm_f32x4_add(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  return wasm_f32x4_extract_lane(halves, 0) + wasm_f32x4_extract_lane(halves, 1);
}

/* one value: sum of a[i] * b[i] */
static inline float dot(const float *a, const float *b, int k) {
  v128_t sum = wasm_f32x4_splat(0);
  int i = 0;
  for (; i + 4 <= k; i += 4) sum = wasm_f32x4_add(sum, wasm_f32x4_mul(wasm_v128_load(a + i), wasm_v128_load(b + i)));
  float rest = total(sum);
  for (; i < k; i++) rest += a[i] * b[i];
  return rest;
}

/* two rows of a with four rows of b: eight values from six loads */
static inline void tile(const float *a0, const float *a1, const float *b, int ldb, const float *bias, float *c0, float *c1,
                        int k) {
  const float *b1 = b + ldb, *b2 = b1 + ldb, *b3 = b2 + ldb;
  v128_t s00 = wasm_f32x4_splat(0), s01 = s00, s02 = s00, s03 = s00, s10 = s00, s11 = s00, s12 = s00, s13 = s00;
  int i = 0;
  for (; i + 4 <= k; i += 4) {
    v128_t x0 = wasm_v128_load(a0 + i), x1 = wasm_v128_load(a1 + i);
    v128_t y0 = wasm_v128_load(b + i), y1 = wasm_v128_load(b1 + i), y2 = wasm_v128_load(b2 + i), y3 = wasm_v128_load(b3 + i);
    s00 = wasm_f32x4_add(s00, wasm_f32x4_mul(x0, y0));
    s01 = wasm_f32x4_add(s01, wasm_f32x4_mul(x0, y1));
    s02 = wasm_f32x4_add(s02, wasm_f32x4_mul(x0, y2));
    s03 = wasm_f32x4_add(s03, wasm_f32x4_mul(x0, y3));
    s10 = wasm_f32x4_add(s10, wasm_f32x4_mul(x1, y0));
    s11 = wasm_f32x4_add(s11, wasm_f32x4_mul(x1, y1));
    s12 = wasm_f32x4_add(s12, wasm_f32x4_mul(x1, y2));
    s13 = wasm_f32x4_add(s13, wasm_f32x4_mul(x1, y3));
  }
  float r0[4] = {total(s00), total(s01), total(s02), total(s03)};
  float r1[4] = {total(s10), total(s11), total(s12), total(s13)};
  for (; i < k; i++) {
    const float y[4] = {b[i], b1[i], b2[i], b3[i]};
    for (int j = 0; j < 4; j++) {
      r0[j] += a0[i] * y[j];
      r1[j] += a1[i] * y[j];
    }
  }
  for (int j = 0; j < 4; j++) {
    float plus = bias ? bias[j] : 0;
    c0[j] = r0[j] + plus;
    c1[j] = r1[j] + plus;
  }
}

/* c[m][n] = a[m][k] times the transpose of b[n][k], plus bias[n] where there is one */
EXPORT(nt)
void nt(const float *a, int lda, const float *b, int ldb, const float *bias, float *c, int ldc, int m, int n, int k) {
  int i = 0;
  for (; i + 2 <= m; i += 2) {
    const float *a0 = a + i * lda, *a1 = a0 + lda;
    float *c0 = c + i * ldc, *c1 = c0 + ldc;
    int j = 0;
    for (; j + 4 <= n; j += 4) tile(a0, a1, b + j * ldb, ldb, bias ? bias + j : 0, c0 + j, c1 + j, k);
    for (; j < n; j++) {
      float plus = bias ? bias[j] : 0;
      c0[j] = dot(a0, b + j * ldb, k) + plus;
      c1[j] = dot(a1, b + j * ldb, k) + plus;
    }
  }
  for (; i < m; i++)
    for (int j = 0; j < n; j++) c[i * ldc + j] = dot(a + i * lda, b + j * ldb, k) + (bias ? bias[j] : 0);
}

/* c[m][n] = a[m][k] times b[k][n]; with causal >= 0, row i reads the first causal + i + 1 rows of b alone */
EXPORT(nn)
void nn(const float *a, int lda, const float *b, int ldb, float *c, int ldc, int m, int n, int k, int causal) {
  for (int i = 0; i < m; i++) {
    const float *row = a + i * lda;
    int end = causal >= 0 && causal + i + 1 < k ? causal + i + 1 : k;
    int j = 0;
    for (; j + 8 <= n; j += 8) {
      v128_t low = wasm_f32x4_splat(0), high = low;
      for (int s = 0; s < end; s++) {
        v128_t x = wasm_v128_load32_splat(row + s);
        low = wasm_f32x4_add(low, wasm_f32x4_mul(x, wasm_v128_load(b + s * ldb + j)));
        high = wasm_f32x4_add(high, wasm_f32x4_mul(x, wasm_v128_load(b + s * ldb + j + 4)));
      }
      wasm_v128_store(c + i * ldc + j, low);
      wasm_v128_store(c + i * ldc + j + 4, high);
    }
    for (; j < n; j++) {
      float sum = 0;
      for (int s = 0; s < end; s++) sum += row[s] * b[s * ldb + j];
      c[i * ldc + j] = sum;
    }
  }
}

/* LayerNorm of rows of width d; `weight`, `bias` and `scale` (the root of the variance, one for each row) may be 0 */
EXPORT(norm)
void norm(const float *x, const float *weight, const float *bias, float *out, float *scale, int rows, int d, double eps) {
  for (int i = 0; i < rows; i++, x += d, out += d) {
    double mean = 0, square = 0;
    for (int j = 0; j < d; j++) mean += x[j];
    mean /= d;
    for (int j = 0; j < d; j++) square += (x[j] - mean) * (x[j] - mean);
    double root = __builtin_sqrt(square / d + eps);
    if (scale) scale[i] = root;
    for (int j = 0; j < d; j++) {
      double unit = (x[j] - mean) / root;
      out[j] = unit * (weight ? weight[j] : 1) + (bias ? bias[j] : 0);
    }
  }
}

/* e to the power of x, in float64: 2^n times the series of what remains, |remainder| below 0.35, up to r^9 / 9! */
static inline double power_of_e(double x) {
  if (x < -700) return 0;
  if (x > 700) x = 700;
  double n = __builtin_floor(x * 1.4426950408889634074 + 0.5);
  double r = x - n * 0.693147180369123816490 - n * 1.90821492927058770002e-10; /* ln 2 in two parts */
  double low = 1 + r * (1 + r * (1 / 2.0 + r * (1 / 6.0 + r * (1 / 24.0))));
  double high = 1 / 120.0 + r * (1 / 720.0 + r * (1 / 5040.0 + r * (1 / 40320.0 + r * (1 / 362880.0))));
  double square = r * r;
  union { unsigned long long bits; double value; } two = {.bits = (unsigned long long)((long long)n + 1023) << 52};
  return (low + square * square * r * high) * two.value;
}

/* rows of attention scores, in place: times `factor`, then softmax over the first `first + i + 1` of `n` columns */
EXPORT(softmax)
void softmax(float *s, int lds, int rows, int first, int n, double factor) {
  for (int i = 0; i < rows; i++, s += lds) {
    int end = first + i + 1;
    double most = s[0], sum = 0;
    for (int j = 1; j < end; j++) most = s[j] > most ? s[j] : most;
    for (int j = 0; j < end; j++) {
      double e = power_of_e((s[j] - most) * factor);
      s[j] = e;
      sum += e;
    }
    for (int j = 0; j < end; j++) s[j] /= sum;
    for (int j = end; j < n; j++) s[j] = 0;
  }
}

/* erf from a table of its Taylor series, five numbers each, at steps of 1/64 up to 6, by the nearest */
static inline double erf_of(double x, const double *table) {
  double size = x < 0 ? -x : x;
  if (size >= 6) return x < 0 ? -1 : 1;
  int i = size * 64 + 0.5;
  const double *c = table + 5 * i;
  double d = size - i * (1 / 64.0);
  double value = c[0] + d * (c[1] + d * (c[2] + d * (c[3] + d * c[4])));
  return x < 0 ? -value : value;
}

/* GELU of `count` numbers: nanoGPT's exact one, or with `tanh` the older one */
EXPORT(gelu)
void gelu(const float *x, float *out, int count, int tanh, const double *table) {
  for (int i = 0; i < count; i++) {
    double v = x[i];
    if (tanh) {
      double u = 0.79788456080286535588 * (v + 0.044715 * v * v * v);
      out[i] = 0.5 * v * (2 - 2 / (power_of_e(2 * u) + 1));
    } else {
      out[i] = 0.5 * v * (1 + erf_of(v * 0.70710678118654752440, table));
    }
  }
}
