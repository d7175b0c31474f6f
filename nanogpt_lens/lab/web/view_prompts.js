/* The two prompts: tokens as chips that are coloured and choose the position that is read; what is asked of the model. */
import { divergingStyle, elem, pressable, segmented, setAttr, setText, shadeStyle } from "./draw.js";
import { createPicker } from "./draw_picker.js";
import { createPrompt } from "./draw_prompt.js";
import { lossesOf, plainNumber, signedNumber } from "./numbers.js";
import { plainWords, tokenInWords, tokenLabel, typedOf, visibleText } from "./tokens.js";

/* The colour of a chip, and what is said of it. */
function chipLook(page, state, i, { before, after }) {
  const { payload } = page;
  const token = tokenInWords(payload, state.tokens[i]);
  const loss = before[i], change = after[i] - before[i];
  if (!Number.isFinite(loss) || i === 0) return { style: "", said: `${token}, position ${i}` };
  const said = `${token}, position ${i}, surprise ${plainNumber(loss)} nats, changed by ${signedNumber(change)}`;
  if (state.colours === "surprise") return { style: shadeStyle(after[i] / 6, "--heat"), said };
  return { style: state.colours === "effect" ? divergingStyle(-change / 1.5) : "", said };
}

function updateChips(page, clean, state) {
  const { shown } = page.results;
  const fits = shown && JSON.stringify(shown.tokens) === JSON.stringify(state.tokens);
  const lossesIn = (run) => (fits ? lossesOf(run.logits, shown.tokens) : []);
  const losses = { before: lossesIn(shown?.base), after: lossesIn(shown?.run) };
  const read = state.read ?? state.tokens.length - 1;
  clean.chips.querySelectorAll("button.chip").forEach((chip, i) => {
    const { style, said } = chipLook(page, state, i, losses);
    if (chip.dataset.style !== style) { chip.style.cssText = style; chip.dataset.style = style; }
    setAttr(chip, "aria-pressed", i === read);
    setAttr(chip, "aria-label", said);
    setAttr(chip, "title", `${said}; click to read here`);
  });
}

/* What a change of the prompt or the position does to the answer: one that was not picked is chosen anew. */
const freshAnswer = (state) => (state.picked ? {} : { answer: null, wrong: null });

function cleanPrompt(page) {
  const { store } = page;
  return createPrompt(page, {
    name: "prompt", label: "Prompt", get: () => store.get().tokens,
    take(tokens) {
      const state = store.get();
      if (JSON.stringify(tokens) !== JSON.stringify(state.tokens)) store.set({ tokens, read: null, ...freshAnswer(state) }, "typing");
    },
    chip(i) {
      const state = store.get();
      store.set({ read: i === state.tokens.length - 1 ? null : i, ...freshAnswer(state) });
    },
  });
}

/* The other prompt, and the button that makes one. */
function otherPrompt(page) {
  const { store } = page;
  const prompt = createPrompt(page, {
    name: "other prompt", label: "Other", get: () => store.get().other,
    take: (ids) => JSON.stringify(ids) !== JSON.stringify(store.get().other) && store.set({ other: ids }, "typing other"),
  });
  const begin = () => {
    store.set({ other: store.get().tokens.slice() });
    prompt.element.hidden = false; // what is hidden takes no focus
    prompt.open();
  };
  const add = pressable("+ other prompt", begin, { class: "btn quiet", title: "A second prompt, to take activations from" });
  prompt.element.append(pressable("×", () => store.set({ other: null }), { class: "btn quiet", "aria-label": "Remove the other prompt" }));
  const lengths = elem("p", { class: "note", role: "status" });
  return {
    element: prompt.element, add, lengths,
    update({ other, tokens }) {
      prompt.element.hidden = !other;
      add.hidden = Boolean(other);
      lengths.hidden = !other || other.length === tokens.length;
      if (!other) return;
      setText(lengths, `The prompts have ${tokens.length} and ${other.length} tokens; taking activations from the other needs as many in both.`);
      prompt.update(other);
      prompt.chips.querySelectorAll("button.chip").forEach((chip, i) => setAttr(chip, "data-differs", other[i] !== tokens[i] ? "" : null));
    },
  };
}

/* What is asked: the answer, and another that it is compared with. */
function answerPickers({ payload, store, results }) {
  const answer = createPicker(payload, { label: "answer", none: "the likeliest", choose: (id) => store.set({ answer: id, picked: id !== null }) });
  const wrong = createPicker(payload, { label: "wrong answer", none: "none", choose: (id) => store.set({ wrong: id }) });
  return {
    elements: [elem("label", {}, "Answer ", answer.element), elem("label", {}, "against ", wrong.element)],
    close() { answer.close(); wrong.close(); },
    update(state) {
      const { shown } = results;
      const likeliest = state.answer === null ? " (likeliest)" : "";
      answer.update(state.answer, shown?.before ?? null, shown ? `${tokenInWords(payload, shown.answer)}${likeliest}` : "…");
      wrong.update(state.wrong, shown?.before ?? null, state.wrong === null ? "none" : tokenInWords(payload, state.wrong));
    },
  };
}

/* The prompts that Python put in, to begin from. */
function examplePrompts({ payload, store }) {
  const prompts = payload.findings?.prompts ?? [];
  if (prompts.length < 2) return null;
  const buttons = prompts.slice(0, 8).map(({ label, tokens, other = null, answer = null, wrong = null }) => {
    const text = label ? plainWords(label, 60) : visibleText(typedOf(payload, tokens), 24);
    const take = () => store.set({ tokens: tokens.slice(), other: other?.slice() ?? null, answer, wrong, picked: false, read: null });
    return pressable(text, take, { class: "btn quiet" });
  });
  return elem("div", { class: "examples", role: "group", "aria-label": "examples" }, elem("span", { class: "mut", text: "Try" }), ...buttons);
}

export function viewPrompts(page) {
  const { payload, store } = page;
  const clean = cleanPrompt(page), other = otherPrompt(page), pickers = answerPickers(page);
  const cursor = elem("button", {
    type: "button", class: "cur", tabindex: -1, "data-key": "cursor", title: "Type on", "aria-label": "what comes next; type on",
    onclick: () => clean.open(),
  }, elem("bdi", {}));
  const choices = ["surprise", "effect", "plain"].map((value) => [value, value]);
  const colours = segmented("colour of the tokens", choices, (value) => store.set({ colours: value }));
  const ask = elem("div", { class: "ask" }, ...pickers.elements, other.add, elem("span", { class: "sp" }), colours.element);
  const element = elem("section", { class: "card full prompts", "aria-label": "prompts" },
    clean.element, other.element, other.lengths, ask, examplePrompts(page));
  return {
    element,
    close: pickers.close,
    update(state) {
      const { shown } = page.results;
      clean.update(state.tokens, cursor);
      if (shown) setText(cursor.firstChild, `${tokenLabel(payload, shown.answer, 8)} ?`);
      cursor.hidden = state.read !== null;
      updateChips(page, clean, state);
      other.update(state);
      colours.update(state.colours);
      pickers.update(state);
    },
  };
}
