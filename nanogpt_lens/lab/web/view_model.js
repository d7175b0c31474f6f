/* The model as a grid: layers upward, heads and an MLP in each. A cell says what its part does to the answer now; a
   click takes it through live, off, average, other prompt, scaled. */
import { divergingStyle, elem, rovingFocus, segmented, setAttr, setText } from "./draw.js";
import { largestSize, signedNumber } from "./numbers.js";
import { measuredSet, partsOf } from "./results.js";
import { cycledStack, partIndex, partName, sourceWord, stackOf, withStack } from "./stack.js";
import { plainWords, tokenInWords } from "./tokens.js";

const LOOK_WORDS = { off: "off", mean: "average", other: "other prompt", scaled: "scaled", more: "changed" };

/* Where an arrow key leads in the grid: along a layer, or to the part above and below. */
function gridMove(config, at, key) {
  const wide = config.n_heads + 1;
  const [row, column] = [Math.floor(at / wide), at % wide];
  const to = {
    ArrowRight: [row, column + 1], ArrowLeft: [row, column - 1], Home: [row, 0], End: [row, wide - 1],
    ArrowDown: column === wide - 1 ? [row + 1, 0] : [row, wide - 1],
    ArrowUp: column === wide - 1 ? [row, 0] : [row - 1, wide - 1],
  }[key];
  if (!to || to[0] < 0 || to[0] >= config.n_layers || to[1] < 0 || to[1] >= wide) return null;
  return to[0] * wide + to[1];
}

function createCell(page, part) {
  const finding = part.mlp ? null : page.payload.findings?.heads?.[partName(part)];
  const number = elem("i", { text: " " });
  const name = elem("b", { text: part.mlp ? `MLP ${part.layer}` : partName(part) });
  const badge = elem("small", { class: "badge" });
  const label = finding?.label ? elem("small", { class: "found", text: plainWords(finding.label, 60) }) : null;
  const button = elem("button", {
    type: "button", class: part.mlp ? "mlp" : "head", "data-key": partName(part), tabindex: -1, onclick: () => page.cyclePart(part),
  }, elem("span", { class: "cell-line" }, name, number), label, badge);
  button.addEventListener("contextmenu", (event) => { event.preventDefault(); page.store.set({ chosen: part }); });
  return { button, number, badge, part, finding };
}

/* The value of each part: its effect now; of a part that is changed, what that change does. */
function valuesOfGrid(page, state) {
  const { grid, shown } = page.results;
  const parts = partsOf(page.payload.config);
  const values = grid.value?.shows === state.shows ? Array.from(grid.value.values) : parts.map(() => NaN);
  const active = stackOf(state).filter((item) => item.on);
  const measured = measuredSet(page.results, state);
  if (state.shows === "effect" && shown) {
    parts.forEach((part, i) => {
      const at = partIndex(active, part);
      if (at >= 0) values[i] = measured?.last[at] ?? NaN;
    });
  }
  return values;
}

function updateCell(cell, state, value, largest, meaning) {
  const { button, number, badge, part, finding } = cell;
  const at = partIndex(stackOf(state), part);
  const item = at >= 0 ? stackOf(state)[at] : null;
  const word = item?.on ? sourceWord(item.intervention.source) : "live";
  const scale = item?.intervention.source.scale;
  const away = state.shows === "effect" && word !== "more" && !(scale > 1); // then what helps lowers the measure
  const style = divergingStyle((away ? -value : value) / largest);
  if (button.dataset.style !== style) { button.dataset.style = style; button.style.cssText = style; }
  setAttr(button, "data-look", word);
  setAttr(button, "data-chosen", part.layer === state.chosen.layer && part.mlp === state.chosen.mlp && part.head === state.chosen.head);
  setText(number, Number.isFinite(value) ? signedNumber(value) : " ");
  setText(badge, word === "scaled" ? `×${item.intervention.source.scale}` : word === "live" || word === "off" ? "" : LOOK_WORDS[word]);
  badge.hidden = !badge.textContent;
  const name = part.mlp ? `MLP of layer ${part.layer}` : `head ${partName(part)}`;
  const live = word === "live";
  const effect = Number.isFinite(value) ? `${live ? meaning : "this change does"} ${signedNumber(value)}` : "";
  const label = finding?.label ? plainWords(finding.label, 60) : "";
  const said = [name, label, live ? "live" : LOOK_WORDS[word], effect].filter(Boolean).join(", ");
  setAttr(button, "aria-label", said);
  setAttr(button, "title", finding?.sentence ? `${said}\n${plainWords(finding.sentence)}` : said);
}

function legendOf(page, state) {
  const { shown } = page.results;
  const answer = shown ? tokenInWords(page.payload, shown.answer) : "the answer";
  const wrong = shown && shown.wrong !== null ? tokenInWords(page.payload, shown.wrong) : null;
  const quantity = wrong ? `the lead of ${answer} over ${wrong}` : `log P(${answer})`;
  const others = page.hasOther() ? "from the other prompt, " : "";
  const click = `Click a part: off, ${page.hasMean() ? "its average, " : ""}${others}scaled, live again.`;
  if (state.shows === "contribution") {
    const over = wrong ? ` over ${wrong}` : ", above the mean logit";
    return {
      title: `What each part adds to ${answer}`, left: `against ${answer}`, right: `for ${answer}`, meaning: "it adds",
      note: `What each part writes straight to the logit of ${answer}${over}, without the way through other parts. ${click}`,
    };
  }
  return {
    title: `What each part does for ${answer}`, meaning: "change without it",
    left: wrong ? "against: a larger lead without it" : "against: more likely without it",
    right: wrong ? "helps: a smaller lead" : `helps: ${answer} is less likely`,
    note: `Change of ${quantity} when a part is switched off, measured now, in this page. ${click}`,
  };
}

function createGrid(config, cells) {
  const wide = config.n_heads + 1;
  const layers = Array.from({ length: config.n_layers }, (_, row) => {
    const inside = cells.slice(row * wide, (row + 1) * wide);
    const buttons = inside.map(({ button }) => button);
    const number = elem("span", { class: "ln", text: String(inside[0].part.layer), "aria-hidden": "true" });
    return elem("div", { class: "layer" }, number, elem("div", { class: "heads" }, ...buttons.slice(0, -1)), buttons[wide - 1]);
  });
  const label = "the model's parts, the last layer first; arrow keys move, Enter changes";
  const dense = config.n_heads > 6 || null;
  const grid = elem("div", { class: "grid", role: "group", "aria-label": label, "data-dense": dense, style: `--heads:${config.n_heads}` }, ...layers);
  cells[0].button.tabIndex = 0;
  rovingFocus(grid, () => cells.map(({ button }) => button), (at, key) => gridMove(config, at, key));
  return grid;
}

export function viewModel(page) {
  const { payload, store } = page;
  const { config } = payload;
  const title = elem("h2");
  const shows = segmented("what the cells show", [["effect", "switched off"], ["contribution", "direct"]], (value) => store.set({ shows: value }));
  const cells = partsOf(config).map((part) => createCell(page, part));
  const grid = createGrid(config, cells);
  const [left, right] = [elem("span"), elem("span")];
  const note = elem("p", { class: "note" });
  const problem = elem("p", { class: "problem" });
  const size = elem("span", { class: "mut" });
  const element = elem("section", { class: "card model", "data-tour": "model", "aria-label": "the model" },
    elem("div", { class: "card-head" }, title, shows.element), elem("div", { class: "scroll", style: `--layers:${config.n_layers}` }, grid),
    elem("div", { class: "scale", "aria-hidden": "true" }), elem("div", { class: "ends" }, left, size, right), note, problem);
  return {
    element,
    update(state) {
      const values = valuesOfGrid(page, state);
      const largest = largestSize(values, 0.02);
      const legend = legendOf(page, state);
      setText(title, legend.title);
      setText(left, legend.left);
      setText(right, legend.right);
      setText(size, `±${largest.toFixed(2)}`);
      setText(note, legend.note);
      shows.update(state.shows);
      cells.forEach((cell, i) => updateCell(cell, state, values[i], largest, legend.meaning));
      setAttr(element, "aria-busy", page.results.grid.busy);
      setText(problem, page.results.grid.problem ?? "");
    },
  };
}

/* A click on a part: the next in the cycle, and it is the part that is looked at. */
export function cyclePartOf(page, part) {
  const state = page.store.get();
  const items = cycledStack(stackOf(state), part, { mean: page.hasMean(), other: page.hasOther() });
  page.store.set({ ...withStack(state, items), chosen: part });
}
