/* Where the chosen head looks: its pattern as a matrix; a cell can be set. */
import { elem, numberField, pressable, segmented, setText } from "./draw.js";
import { createMatrix } from "./draw_matrix.js";
import { hookName } from "./sites.js";
import { largestSize, plainNumber, signedNumber } from "./numbers.js";
import { adoptedStack, partName, stackOf, withStack } from "./stack.js";
import { tokenInWords, tokenLabel } from "./tokens.js";

/* The pattern [dest * n + src] of a head in one run; null where the run has none. */
function patternOfRun(run, { layer, head }) {
  const found = run?.activations?.[hookName("pattern", layer)];
  if (!found) return null;
  const n = found.shape[found.shape.length - 1];
  return found.data.subarray(head * n * n, (head + 1) * n * n);
}

function valuesOfPattern(state, shown) {
  const before = patternOfRun(shown.base, state.chosen), after = patternOfRun(shown.run, state.chosen);
  if (!before || !after) return null;
  if (state.pattern === "trained") return before;
  return state.pattern === "changed" ? after : after.map((value, i) => value - before[i]);
}

/* What can be done to one cell, under the matrix. */
function cellControl(page, cell, close) {
  const { payload, store } = page;
  const { layer, head } = store.get().chosen;
  const tokens = store.get().tokens;
  let number = 0.5;
  const adopt = (source, whole = false) => {
    const state = store.get();
    const place = { activation: "pattern", layer, head, ...(whole ? {} : { dest_pos: cell.row }), src_pos: cell.column };
    store.set(withStack(state, adoptedStack(stackOf(state), { ...place, source })));
  };
  const field = numberField("number", { value: number, min: -100, max: 100, step: 0.1, onchange: (value) => { number = value; } });
  const withNumber = [pressable("add it", () => adopt({ add: [1], scale: number })), pressable("times it", () => adopt({ scale: number }))];
  const title = `From ${tokenInWords(payload, tokens[cell.row])} (${cell.row}) to ${tokenInWords(payload, tokens[cell.column])} (${cell.column})`;
  return elem("div", { class: "inline", role: "group", "aria-label": title }, elem("b", { text: title }),
    pressable("set to 0", () => adopt("zero")), pressable("its whole column to 0", () => adopt("zero", true)),
    elem("span", { class: "pair" }, field, ...withNumber),
    pressable("×", close));
}

export function viewAttention(page) {
  const { payload, store } = page;
  let cell = null, values = null;
  const controls = elem("div", {});
  const matrix = createMatrix({
    label: "attention; arrow keys move, Enter sets a cell",
    read(row, column) {
      const { tokens } = page.results.shown;
      const value = values[row * tokens.length + column];
      const [from, to] = [row, column].map((pos) => `${tokenInWords(payload, tokens[pos])} (${pos})`);
      return `${from} looks at ${to}: ${store.get().pattern === "difference" ? signedNumber(value, 3) : plainNumber(value, 3)}`;
    },
    choose(row, column) { cell = { row, column }; drawControls(); },
  });
  const choices = [["trained", "as trained"], ["changed", "changed"], ["difference", "difference"]];
  const which = segmented("which pattern", choices, (value) => store.set({ pattern: value }));
  const note = elem("p", { class: "note" });
  const element = elem("div", {}, which.element, matrix.element, controls, note);
  let about = null;

  function drawControls() {
    controls.replaceChildren(...(cell ? [cellControl(page, cell, () => { cell = null; drawControls(); })] : []));
  }
  return {
    element,
    update(state) {
      const { shown } = page.results;
      which.update(state.pattern);
      if (state.chosen.mlp) {
        setText(note, "An MLP does not attend; choose a head.");
        matrix.element.hidden = true;
        return;
      }
      const pattern = shown && valuesOfPattern(state, shown);
      matrix.element.hidden = false;
      if (!pattern) return;
      values = pattern;
      const subject = `${partName(state.chosen)} ${shown.tokens.length}`;
      if (subject !== about) { about = subject; cell = null; drawControls(); }
      const labels = shown.tokens.map((id) => tokenLabel(payload, id, 6));
      const n = labels.length, difference = state.pattern === "difference";
      matrix.update({ about: [shown.base, shown.run, state.pattern, partName(state.chosen)], rows: labels, columns: labels,
        diverging: difference, largest: difference ? largestSize(values, 0.05) : 1,
        value: (row, column) => (column > row ? null : pattern[row * n + column]) });
      setText(note, attentionInWords(payload, state, shown, values, n));
    },
  };
}

function attentionInWords(payload, state, shown, values, n) {
  if (state.pattern === "difference") {
    return `With your changes minus as trained; the full colour is ±${plainNumber(largestSize(values, 0.05))}. Click a cell to set it.`;
  }
  const row = values.subarray(shown.pos * n, shown.pos * n + shown.pos + 1);
  let most = 0;
  row.forEach((value, i) => { if (value > row[most]) most = i; });
  const target = `${tokenInWords(payload, shown.tokens[most])} (${most}): ${plainNumber(row[most])}`;
  return `A row looks at its columns, from 0 to 1. The row that is read (${shown.pos}) looks most at ${target}. Click a cell to set it.`;
}
