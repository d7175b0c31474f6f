/* A sweep in the page: a button, progress, a matrix and a sorted list of what was measured; a click adopts a cell. */
import { elem, pressable, rebuild, segmented, setAttr, setText } from "./draw.js";
import { createMatrix } from "./draw_matrix.js";
import { largestOf, largestSize, signedNumber, toneOf } from "./numbers.js";
import { requestOf } from "./results.js";
import { adoptedStack, stackOf, withStack } from "./stack.js";
import { candidatesOf } from "./sweeps.js";
import { sweepInParts } from "./task.js";
import { tokenInWords } from "./tokens.js";
import { interventionInWords } from "./words.js";

const MOST_LISTED = 24;

/* What a table was measured for: another prompt, changes or measure make it old. */
function keyOfTable(table, shown) {
  const first = table.cells.find((line) => line.some(Boolean));
  return JSON.stringify([table.rows, table.columns, first, shown?.tokens, shown?.other, shown?.now, shown?.metric]);
}

/* Begin to measure a table: its task's value is {table, at: changes [row][column], values, candidates, key, metric}. */
function measureTable(results, name, table) {
  const { shown, lab } = results;
  if (!shown) return;
  const { candidates, places } = candidatesOf(table);
  const key = keyOfTable(table, shown);
  const request = requestOf(shown, [...shown.now, ...candidates.flat()], { candidates, metric: shown.metric, channel: name });
  request.interventions = shown.now;
  const wrap = (values) => {
    const at = table.cells.map((line) => line.map((cell) => (cell ? NaN : null)));
    places.forEach(([row, column], i) => { at[row][column] = values[i]; });
    return { table, at, values, candidates, key, metric: shown.metric };
  };
  results[name].want(`${key} ${performance.now()}`, async ({ alive, show }) => (
    wrap(await sweepInParts(lab, request, { alive, show: (values, part) => show(wrap(values), part) }, 24))));
}

/* The cells with the largest effects, as buttons that adopt them. */
function sortedCells(value, words, adopt) {
  const order = largestOf(value.values.map((change) => (Number.isFinite(change) ? Math.abs(change) : -1)), MOST_LISTED);
  return order.filter((i) => Number.isFinite(value.values[i])).map((i) => {
    const [cell] = value.candidates[i];
    const number = elem("b", { text: signedNumber(value.values[i], 3), "data-tone": toneOf(-value.values[i], 3) /* what helps lowers the measure by being absent */ });
    const text = elem("span", { text: words(cell) });
    return elem("li", {}, elem("button", { type: "button", "data-key": String(i), onclick: () => adopt(cell) }, text, number));
  });
}

/* The matrix and the sorted list of what a task measured. */
function createFindings(page, name, label) {
  const { payload, store, results } = page;
  const list = elem("ol", { class: "sorted" });
  let drawn = null;
  const words = (cell) => interventionInWords(payload, results.shown?.tokens ?? [], cell);
  const adopt = (cell) => {
    const state = store.get();
    store.set(withStack(state, adoptedStack(stackOf(state), cell)));
    page.say("The change is in your stack.");
  };
  const matrix = createMatrix({
    label,
    read(row, column) {
      const { table, at } = results[name].value;
      return `${words(table.cells[row][column])}: ${signedNumber(at[row][column], 3)}`;
    },
    choose: (row, column) => adopt(results[name].value.table.cells[row][column]),
  });
  return {
    elements: [matrix.element, list],
    update(value, looks, largest) {
      matrix.element.hidden = !value || looks !== "matrix";
      list.hidden = !value || looks !== "list";
      if (!value) return;
      if (drawn !== value) rebuild(list, sortedCells(value, words, adopt));
      drawn = value;
      const numbers = value.table.columns.length <= 13 ? (number) => signedNumber(number) : null;
      if (looks === "matrix") matrix.update({ ...value.table, about: [value], diverging: true, fallsHelps: true, largest, numbers, value: (row, column) => value.at[row][column] });
    },
  };
}

/* createTable(page, {name: task, label, table(): what would be measured, axes(): a sentence}) */
export function createTable(page, { name, label, table, axes }) {
  const { payload, results } = page;
  const task = results[name];
  let looks = "matrix";
  const start = pressable("", () => (task.busy ? task.drop() : measureTable(results, name, table())), { class: "btn pri" });
  const bar = elem("progress", { max: 1, value: 0, "aria-label": "progress" });
  const which = segmented("show as", [["matrix", "table"], ["list", "sorted"]], (value) => { looks = value; page.draw(); });
  const note = elem("p", { class: "note", role: "status" });
  const problem = elem("p", { class: "problem" });
  const findings = createFindings(page, name, label);
  const element = elem("div", {}, elem("div", { class: "row" }, start, which.element), bar, problem, ...findings.elements, note);
  return {
    element,
    update() {
      const { value, busy, progress } = task;
      const now = table();
      setText(start, busy ? "Stop" : `Measure ${candidatesOf(now).candidates.length}`);
      bar.hidden = !busy;
      bar.value = progress ?? 0;
      which.update(looks);
      setText(problem, task.problem ?? "");
      const largest = value ? largestSize(value.values, 0.01) : 1;
      findings.update(value, looks, largest);
      const old = Boolean(value) && !busy && value.key !== keyOfTable(now, results.shown);
      setAttr(element, "data-old", old ? "old" : null);
      if (!value) return setText(note, axes());
      const scale = `Teal helps ${tokenInWords(payload, value.metric.answer)}, which falls when it is replaced; rust works against it. The full colour is ±${largest.toFixed(2)}. A click adopts a cell.`;
      return setText(note, `${axes()} ${scale}${old ? " This was measured before your last change; measure again." : ""}`);
    },
  };
}
