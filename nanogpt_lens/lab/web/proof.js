/* The proof in the page: what Python computed in float64, computed again here. */

const LIMIT = 2e-5; // of the largest logit

/* cases: [{tokens, other, interventions, rows, columns, expected: Float64Array [row, column], words}] */
export async function proveEqual(cases, { breathe, progress }, run) {
  const began = performance.now();
  let [largest, worst] = [0, ""];
  for (let i = 0; i < cases.length; i++) {
    const { tokens, other, reference, interventions, rows, columns, expected, words } = cases[i];
    const { logits } = await run({ tokens, other, reference, interventions });
    const most = expected.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-30);
    const vocab = logits.shape[1];
    rows.forEach((row, r) => columns.forEach((column, c) => {
      const error = Math.abs(logits.data[row * vocab + column] - expected[r * columns.length + c]) / most;
      if (!(error <= largest)) [largest, worst] = [error, words];
    }));
    progress(i + 1, cases.length);
    await breathe();
  }
  const equal = cases.length > 0 && largest <= LIMIT;
  return { equal, n: cases.length, largest, worst, seconds: (performance.now() - began) / 1000 };
}
