/* A sweep in the page: a button, progress, a matrix and a sorted list of what was measured; a click adopts a cell. */
import { elem, rebuild, segmented, setAttr, setText } from "./draw.js";
import { createMatrix } from "./draw_matrix.js";
import { largestSize, signedNumber } from "./numbers.js";
import { requestOf } from "./results.js";
import { adoptedStack, stackOf, withStack } from "./stack.js";
import { candidatesOf } from "./sweeps.js";
import { sweepInParts } from "./task.js";
import { tokenInWords } from "./tokens.js";
import { interventionInWords } from "./words.js";

const MOST_LISTED = 24;

/* createTable(page, {name: task, label, table(): what would be measured, axes: a sentence}) */
export function createTable(page, { name, label, table, axes }) {
  const { payload, store, results } = page;
  const task = results[name];
  let looks = "matrix";
  const start = elem("button", { type: "button", class: "btn pri", onclick: () => (task.busy ? task.drop() : begin()) });
  const bar = elem("progress", { max: 1, value: 0, "aria-label": "progress" });
  const which = segmented("show as", [["matrix", "table"], ["list", "sorted"]], (value) => { looks = value; page.draw(); });
  const note = elem("p", { class: "note", role: "status" });
  const problem = elem("p", { class: "problem" });
  const list = elem("ol", { class: "sorted" });
  let drawn = null;
  const said = (cell, value) => `${interventionInWords(payload, results.shown?.tokens ?? [], cell)}: ${signedNumber(value, 3)}`;
  const adopt = (cell) => { const state = store.get(); store.set(withStack(state, adoptedStack(stackOf(state), cell))); page.say("The change is in your stack."); };
  const matrix = createMatrix({
    label,
    read: (row, column) => said(task.value.table.cells[row][column], task.value.at[row][column]),
    choose: (row, column) => adopt(task.value.table.cells[row][column]),
  });
  const element = elem("div", {}, elem("div", { class: "row" }, start, which.element), bar, problem, matrix.element, list, note);

  const keyOfTable = (what) => JSON.stringify([what.cells.length, what.rows, what.columns, what.cells.find((line) => line.some(Boolean)), results.shown?.tokens, results.shown?.other, results.shown?.now, results.shown?.metric]);
  function begin() {
    const { shown } = results;
    if (!shown) return;
    const what = table();
    const { candidates, places } = candidatesOf(what);
    const request = requestOf(shown, [...shown.now, ...candidates.flat()], { candidates, metric: shown.metric, channel: name });
    request.interventions = shown.now;
    const wrap = (values) => {
      const at = what.cells.map((line) => line.map((cell) => (cell ? NaN : null)));
      places.forEach(([row, column], i) => { at[row][column] = values[i]; });
      return { table: what, at, values, candidates, key: keyOfTable(what), metric: shown.metric };
    };
    task.want(`${keyOfTable(what)} ${performance.now()}`, async ({ alive, show }) => wrap(await sweepInParts(results.lab, request, { alive, show: (values, part) => show(wrap(values), part) }, 24)));
  }
  function drawList(value) {
    const order = Array.from(value.values.keys()).filter((i) => Number.isFinite(value.values[i])).sort((a, b) => Math.abs(value.values[b]) - Math.abs(value.values[a]));
    rebuild(list, order.slice(0, MOST_LISTED).map((i) => elem("li", {}, elem("button", { type: "button", "data-key": String(i), onclick: () => adopt(value.candidates[i][0]) },
      elem("span", { text: interventionInWords(payload, results.shown.tokens, value.candidates[i][0]) }),
      elem("b", { text: signedNumber(value.values[i], 3), "data-tone": value.values[i] < 0 ? "less" : "more" })))));
  }
  return {
    element,
    update() {
      const { value, busy, progress } = task;
      const count = candidatesOf(table()).candidates.length;
      setText(start, busy ? "Stop" : `Measure ${count}`);
      bar.hidden = !busy;
      bar.value = progress ?? 0;
      which.update(looks);
      setText(problem, task.problem ?? "");
      matrix.element.hidden = !value || looks !== "matrix";
      list.hidden = !value || looks !== "list";
      if (!value) return setText(note, axes());
      if (drawn !== value) {
        drawn = value;
        drawList(value);
      }
      const largest = largestSize(value.values, 0.01);
      if (looks === "matrix") matrix.update({ ...value.table, diverging: true, largest, numbers: value.table.columns.length <= 13 ? (number) => signedNumber(number) : null, value: (row, column) => value.at[row][column] });
      const old = value.key !== keyOfTable(table()) && !busy ? " This was measured before your last change; measure again." : "";
      setAttr(element, "data-old", old ? "old" : null);
      return setText(note, `${axes()} The full colour is ±${largest.toFixed(2)}, the change for ${tokenInWords(payload, value.metric.answer)}. A click adopts a cell.${old}`);
    },
  };
}
