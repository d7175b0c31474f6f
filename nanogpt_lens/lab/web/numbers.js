/* Numbers as the page writes them, and the little arithmetic on logits that it needs. */

/* "+0.14", "−0.37" */
export function signedNumber(value, digits = 2) {
  if (!Number.isFinite(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? "−" : "+") + text;
}

/* Whether a change, as it is written, is "less" or "more"; null for none. */
export function toneOf(change, digits = 2) {
  if (!Number.isFinite(change) || Number(Math.abs(change).toFixed(digits)) === 0) return null;
  return change < 0 ? "less" : "more";
}

/* A number with a real minus. */
export function plainNumber(value, digits = 2) {
  return Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–";
}

/* "40%", "0.4%", "<0.1%" */
export function percentText(share) {
  const percent = 100 * share;
  if (!Number.isFinite(percent)) return "–";
  if (percent >= 99.5 && percent < 100) return percent > 99.9 ? ">99.9%" : `${percent.toFixed(1)}%`;
  if (percent >= 1) return `${Math.round(percent)}%`;
  return percent >= 0.1 ? `${percent.toFixed(1)}%` : "<0.1%";
}

/* One row of an array [row, column]. */
export function rowOf(array, row) {
  const width = array.shape[array.shape.length - 1];
  return array.data.subarray(row * width, (row + 1) * width);
}

/* The log of the sum of exponentials, in double precision. */
export function logTotal(row) {
  let largest = -Infinity, sum = 0;
  for (const value of row) if (value > largest) largest = value;
  for (const value of row) sum += Math.exp(value - largest);
  return largest + Math.log(sum);
}

/* Probabilities of a row of logits. */
export function probabilitiesOf(row) {
  const normal = logTotal(row);
  return Float64Array.from(row, (value) => Math.exp(value - normal));
}

/* The indices of the k largest values, largest first. */
export function largestOf(values, k) {
  const order = [];
  for (let i = 0; i < values.length; i++) {
    if (order.length === k && !(values[i] > values[order[k - 1]])) continue;
    let at = order.length;
    while (at > 0 && values[i] > values[order[at - 1]]) at--;
    order.splice(at, 0, i);
    if (order.length > k) order.pop();
  }
  return order;
}

/* What the metric of the page is for a row of logits: log P(answer), or logit(answer) - logit(wrong). */
export function metricOfRow(row, answer, wrong) {
  return wrong === null ? row[answer] - logTotal(row) : row[answer] - row[wrong];
}

const lossesByRun = new WeakMap();

/* The loss of each token in nats, null for the first; of a run's logits it is computed once. */
export function lossesOf(logits, tokens) {
  if (!lossesByRun.has(logits)) {
    lossesByRun.set(logits, tokens.map((token, i) => (i === 0 ? null : -metricOfRow(rowOf(logits, i - 1), token, null))));
  }
  return lossesByRun.get(logits);
}

/* The largest absolute value, at least `least`, of numbers among which some may be missing. */
export function largestSize(values, least) {
  let largest = least;
  for (const value of values) if (Number.isFinite(value) && Math.abs(value) > largest) largest = Math.abs(value);
  return largest;
}
