/* The stack of changes: each in words, on or off, where and with what in its place; what they do alone and together;
   two stacks beside each other. */
import { elem, labelledSelect, numberField, pressable, rebuild, setAttr, setText } from "./draw.js";
import { signedNumber, toneOf } from "./numbers.js";
import { measuredSet } from "./results.js";
import { movedStack, sourceWord, stackOf, withStack } from "./stack.js";
import { plainWords, tokenLabel } from "./tokens.js";
import { interventionInWords } from "./words.js";
import { viewAdd } from "./view_add.js";

/* The choices of a position: all, the one that is read, every one; and what is there now, if it is none of them. */
function positionSelect(page, one, at, change) {
  const { payload, store } = page;
  const { tokens, read } = store.get();
  const axis = one.activation === "pattern" ? "dest_pos" : "pos";
  const now = one[axis] ?? null;
  const readAt = read ?? tokens.length - 1;
  const named = (pos) => (tokens[pos] === undefined ? String(pos) : `${pos} ${tokenLabel(payload, tokens[pos], 8)}`);
  const all = one.activation === "pattern" ? "all rows" : "all positions";
  const choices = [["null", all], ["read", `where it is read (${readAt})`], ...tokens.map((_, pos) => [String(pos), named(pos)])];
  const value = now === null ? "null" : JSON.stringify(now);
  const several = Array.isArray(now) ? `positions ${now.slice(0, 6).join(", ")}` : String(now);
  if (!choices.some(([choice]) => choice === value)) choices.push([value, several]);
  return labelledSelect("position", choices, value, (choice) => {
    const { [axis]: _, ...rest } = one;
    const pos = choice === "read" ? readAt : JSON.parse(choice);
    change({ ...rest, ...(pos === null ? {} : { [axis]: pos }) });
  }, `pos ${at}`);
}

function sourceSelect(page, one, at, change) {
  const { source } = one;
  const word = sourceWord(source);
  const choices = [["zero", "off"]];
  if (page.hasMean() || source === "mean") choices.push(["mean", "its average"]);
  if (page.hasOther() || source === "other") choices.push(["other", "from the other prompt"]);
  choices.push(["scale", "scaled"]);
  if (word === "more") choices.push(["add", "plus a direction"]);
  const value = word === "more" ? "add" : typeof source === "string" ? source : "scale";
  const select = labelledSelect("what takes its place", choices, value, (choice) => {
    if (choice !== "add") change({ ...one, source: choice === "scale" ? { scale: 2 } : choice });
  }, `source ${at}`);
  if (typeof source === "string") return [select];
  const scaled = (scale) => change({ ...one, source: { ...source, scale } });
  return [select, numberField("factor", { value: source.scale ?? 1, min: -1000, max: 1000, step: 0.1, key: `scale ${at}`, onchange: scaled })];
}

function changeCard(page, item, at, last) {
  const { payload, store } = page;
  const state = store.get();
  const one = item.intervention;
  const put = (items) => store.set(withStack(store.get(), items));
  const change = (intervention) => put(stackOf(store.get()).map((other, i) => (i === at ? { ...other, intervention } : other)));
  const icon = (text, label, act, disabled = false) => (
    pressable(text, act, { class: "icon", "aria-label": label, title: label, "data-key": `${label} ${at}`, disabled }));
  const words = interventionInWords(payload, state.tokens, one);
  const effect = elem("b", { class: "x", "data-effect": at, text: " " });
  return elem("li", { class: "iv", "data-on": item.on || null },
    elem("button", { type: "button", class: "sw", role: "switch", "aria-checked": String(item.on), "aria-label": words, "data-key": `on ${at}`,
      onclick: () => put(stackOf(store.get()).map((other, i) => (i === at ? { ...other, on: !other.on } : other))) }),
    elem("span", { class: "iv-words", text: words }), effect,
    elem("span", { class: "iv-edit" }, positionSelect(page, one, at, change), ...sourceSelect(page, one, at, change),
      icon("↑", "move up", () => put(movedStack(stackOf(store.get()), at, -1)), at === 0),
      icon("↓", "move down", () => put(movedStack(stackOf(store.get()), at, 1)), last),
      icon("×", "remove", () => put(stackOf(store.get()).filter((_, i) => i !== at)))));
}

/* The cards of a list of changes; one whose change, place and choices are as they were stays. */
function createCards(page, list) {
  let drawn = [];
  return (state) => {
    const items = stackOf(state);
    const isLast = (at) => at === items.length - 1;
    const choices = [state.tokens, state.read, page.hasOther()];
    const now = items.map((item, at) => JSON.stringify([item, isLast(at), choices]));
    if (now.length === drawn.length && now.every((card, at) => card === drawn[at])) return;
    const before = [...list.children];
    rebuild(list, items.map((item, at) => (now[at] === drawn[at] ? before[at] : changeCard(page, item, at, isLast(at)))));
    drawn = now;
  };
}

function togetherInWords(measured) {
  if (!measured || !measured.alone.length) return " ";
  if (measured.alone.length === 1) return `It changes the measure by ${signedNumber(measured.whole)}.`;
  const sum = measured.alone.reduce((a, b) => a + b, 0);
  return `Together ${signedNumber(measured.whole)}; one by one they would sum to ${signedNumber(sum)}.`;
}

/* Beginning, switching and ending a comparison of two stacks. */
function comparison(page) {
  const { store } = page;
  const begin = elem("button", { type: "button", class: "btn", text: "Keep as A, go on as B", onclick: () => {
    const state = store.get();
    const now = stackOf(state);
    store.set({ stacks: { A: now, B: now.map((item) => ({ ...item })) }, active: "B", compare: true });
  } });
  const sides = ["A", "B"].map((name) => pressable(name, () => store.set({ active: name }), { class: "side", role: "radio" }));
  const seg = elem("span", { class: "seg", role: "radiogroup", "aria-label": "the stack that is worked on" }, ...sides);
  const end = elem("button", { type: "button", class: "btn", onclick: () => {
    const state = store.get();
    store.set({ stacks: { A: stackOf(state), B: [] }, active: "A", compare: false });
  } });
  return {
    element: elem("span", { class: "ab" }, begin, seg, end),
    update(state) {
      begin.hidden = state.compare || !stackOf(state).length;
      seg.hidden = end.hidden = !state.compare;
      setText(end, `Keep only ${state.active}`);
      sides.forEach((side) => setAttr(side, "aria-checked", side.textContent === state.active));
    },
  };
}

function averagesInWords({ reference, reference_name: name }) {
  return `Averages are over ${reference?.length ?? 0} sequences${name ? `: ${plainWords(name)}` : ""}.`;
}

export function viewStack(page) {
  const { store } = page;
  const list = elem("ul", { class: "stack", "aria-label": "your changes" });
  const empty = elem("p", { class: "note", text: "Nothing is changed. Click a part of the model, a cell of the attention, a neuron or an edge." });
  const averages = elem("p", { class: "note", text: averagesInWords(page.payload) });
  const together = elem("span", { class: "together", role: "status" });
  const ab = comparison(page);
  const add = viewAdd(page);
  const clear = elem("button", { type: "button", class: "btn quiet", text: "Remove all", onclick: () => store.set(withStack(store.get(), [])) });
  const title = elem("h2");
  const element = elem("section", { class: "card full", "data-tour": "stack", "aria-label": "your changes" },
    elem("div", { class: "card-head" }, title, together, elem("span", { class: "sp" }), ab.element, clear), empty, list, averages, add.element);
  const updateCards = createCards(page, list);
  return {
    element,
    close: add.close,
    update(state) {
      const items = stackOf(state);
      setText(title, state.compare ? `Your changes, ${state.active}` : "Your changes");
      updateCards(state);
      empty.hidden = items.length > 0;
      list.hidden = !items.length;
      averages.hidden = !items.some(({ intervention }) => intervention.source === "mean");
      clear.hidden = !items.length;
      const measured = measuredSet(page.results, state);
      let on = 0;
      items.forEach((item, at) => {
        const alone = item.on ? measured?.alone[on++] : undefined;
        const effect = list.children[at]?.querySelector("[data-effect]");
        if (!effect) return;
        setText(effect, alone === undefined ? " " : signedNumber(alone));
        setAttr(effect, "data-tone", toneOf(alone));
        setAttr(effect, "title", "alone, in the model without the other changes");
      });
      setText(together, items.length ? page.results.set.problem ?? togetherInWords(measured) : " ");
      ab.update(state);
      add.update(state);
    },
  };
}
