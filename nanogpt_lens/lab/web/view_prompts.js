/* The two prompts: tokens as chips that are coloured and choose the position that is read; edited as text or ids. */
import { alongRow, divergingStyle, elem, rebuild, rovingFocus, segmented, setAttr, setText, shadeStyle } from "./draw.js";
import { createPicker } from "./draw_picker.js";
import { lossesOf, plainNumber, signedNumber } from "./numbers.js";
import { plainWords, readTyped, takesText, tokenInWords, tokenLabel, typedOf, visibleText } from "./tokens.js";

/* What was typed, each unknown piece marked where it stands. */
function typedMirror(read, asText) {
  return elem("p", { class: "mirror mono-text", "aria-hidden": "true" }, ...read.pieces.flatMap(({ piece, id }) => {
    const shown = elem("bdi", { class: id === null ? "bad-piece" : "", text: visibleText(piece, 12) });
    return asText ? [shown] : [shown, " "];
  }));
}

/* One prompt: a row of chips, or a field while it is edited. */
function createPrompt(page, { name, label, get, take, chip }) {
  const { payload } = page;
  const asText = takesText(payload);
  const chips = elem("div", { class: "chips", role: "toolbar", "aria-label": `tokens of the ${name}` });
  const field = elem("textarea", { class: "mono-text", rows: 1, spellcheck: "false", autocomplete: "off", autocapitalize: "off", "aria-label": `${name} as ${asText ? "text" : "token ids"}` });
  const mirror = elem("div", {});
  const problem = elem("p", { class: "problem", role: "status" });
  const editor = elem("div", { class: "editor", hidden: true }, field, mirror, problem);
  const edit = elem("button", { type: "button", class: "btn quiet", text: "Edit", "aria-label": `Edit the ${name}`, onclick: () => toggle(editor.hidden) });
  const element = elem("div", { class: "prompt" }, elem("span", { class: "prompt-name", text: label }), elem("div", { class: "prompt-body" }, chips, editor), edit);
  let drawn = null;

  function fit() {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, 200)}px`;
  }
  function check() {
    const read = readTyped(payload, field.value);
    if (read.tooLong) {
      const pieces = read.pieces.map(({ piece }) => piece);
      field.value = asText ? pieces.join("") : pieces.join(" ");
    }
    mirror.replaceChildren(...(read.ids || !read.pieces.length ? [] : [typedMirror(read, asText)]));
    setText(problem, read.problem ?? "");
    setAttr(field, "aria-invalid", read.ids ? null : "true");
    if (read.ids) take(read.ids);
    fit();
  }
  function toggle(open) {
    editor.hidden = !open;
    chips.hidden = open;
    setText(edit, open ? "Done" : "Edit");
    if (!open) return edit.focus();
    field.value = typedOf(payload, get() ?? []);
    check();
    field.focus();
    return field.setSelectionRange(field.value.length, field.value.length);
  }
  field.addEventListener("input", check);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape" || (event.key === "Enter" && (event.ctrlKey || event.metaKey))) { event.preventDefault(); toggle(false); }
  });
  rovingFocus(chips, () => Array.from(chips.querySelectorAll("button")), (at, key, n) => alongRow(at, key, n));
  return {
    element, chips, open: () => toggle(true),
    update(ids, extra) {
      const signature = JSON.stringify(ids);
      if (signature !== drawn) {
        drawn = signature;
        rebuild(chips, [...ids.map((id, i) => elem("button", { type: "button", class: "chip", "data-key": String(i), tabindex: i ? -1 : 0, onclick: () => chip?.(i) },
          elem("bdi", { text: tokenLabel(payload, id, 12) }))), extra ?? null]);
        if (editor.hidden === false && JSON.stringify(readTyped(payload, field.value).ids) !== signature) field.value = typedOf(payload, ids);
      }
    },
  };
}

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
  const losses = fits ? { before: lossesOf(shown.base.logits, shown.tokens), after: lossesOf(shown.run.logits, shown.tokens) } : { before: [], after: [] };
  const read = state.read ?? state.tokens.length - 1;
  clean.chips.querySelectorAll("button.chip").forEach((chip, i) => {
    const { style, said } = chipLook(page, state, i, losses);
    if (chip.dataset.style !== style) { chip.style.cssText = style; chip.dataset.style = style; }
    setAttr(chip, "aria-pressed", i === read);
    setAttr(chip, "aria-label", said);
    setAttr(chip, "title", `${said}; click to read here`);
  });
}

export function viewPrompts(page) {
  const { payload, store } = page;
  const clean = createPrompt(page, {
    name: "prompt", label: "Prompt", get: () => store.get().tokens,
    take(tokens) {
      const state = store.get();
      if (JSON.stringify(tokens) === JSON.stringify(state.tokens)) return;
      store.set({ tokens, read: null, ...(state.picked ? {} : { answer: null, wrong: null }) }, "typing");
    },
    chip: (i) => { const { tokens, picked } = store.get(); store.set({ read: i === tokens.length - 1 ? null : i, ...(picked ? {} : { answer: null, wrong: null }) }); },
  });
  const other = createPrompt(page, {
    name: "other prompt", label: "Other", get: () => store.get().other,
    take: (ids) => JSON.stringify(ids) !== JSON.stringify(store.get().other) && store.set({ other: ids }, "typing other"),
  });
  const cursor = elem("button", { type: "button", class: "cur", tabindex: -1, "data-key": "cursor", title: "Type on", "aria-label": "what comes next; type on", onclick: () => clean.open() }, elem("bdi", {}));
  const addOther = elem("button", { type: "button", class: "btn quiet", text: "+ other prompt", title: "A second prompt, to take activations from", onclick: () => { store.set({ other: store.get().tokens.slice() }); other.open(); } });
  const dropOther = elem("button", { type: "button", class: "btn quiet", text: "×", "aria-label": "Remove the other prompt", onclick: () => store.set({ other: null }) });
  other.element.append(dropOther);
  const lengths = elem("p", { class: "note", role: "status" });
  const colours = segmented("colour of the tokens", [["surprise", "surprise"], ["effect", "effect"], ["plain", "plain"]], (value) => store.set({ colours: value }));
  const answer = createPicker(payload, { label: "answer", none: "the likeliest", choose: (id) => store.set({ answer: id, picked: id !== null }) });
  const wrong = createPicker(payload, { label: "wrong answer", none: "none", choose: (id) => store.set({ wrong: id }) });
  const bar = elem("div", { class: "ask" }, elem("label", {}, "Answer ", answer.element), elem("label", {}, "against ", wrong.element), addOther, elem("span", { class: "sp" }), colours.element);
  const examples = examplePrompts(page);
  const element = elem("section", { class: "card full prompts", "aria-label": "prompts" }, clean.element, other.element, lengths, bar, examples);
  return {
    element,
    close() { answer.close(); wrong.close(); },
    update(state) {
      const { shown } = page.results;
      clean.update(state.tokens, cursor);
      if (shown) setText(cursor.firstChild, `${tokenLabel(payload, shown.answer, 8)} ?`);
      cursor.hidden = state.read !== null;
      updateChips(page, clean, state);
      other.element.hidden = !state.other;
      addOther.hidden = Boolean(state.other);
      if (state.other) {
        other.update(state.other);
        other.chips.querySelectorAll("button.chip").forEach((chip, i) => setAttr(chip, "data-differs", state.other[i] !== state.tokens[i] ? "" : null));
      }
      const differs = state.other && state.other.length !== state.tokens.length;
      lengths.hidden = !differs;
      setText(lengths, differs ? `The prompts have ${state.tokens.length} and ${state.other.length} tokens; taking activations from the other needs as many in both.` : "");
      colours.update(state.colours);
      answer.update(state.answer, shown?.before ?? null, shown ? `${tokenInWords(payload, shown.answer)}${state.answer === null ? " (likeliest)" : ""}` : "…");
      wrong.update(state.wrong, shown?.before ?? null, state.wrong === null ? "none" : tokenInWords(payload, state.wrong));
    },
  };
}

/* The prompts that Python put in, to begin from. */
function examplePrompts({ payload, store }) {
  const prompts = payload.findings?.prompts ?? [];
  if (prompts.length < 2) return null;
  const buttons = prompts.slice(0, 8).map((prompt) => elem("button", { type: "button", class: "btn quiet", text: prompt.label ? plainWords(prompt.label, 60) : visibleText(typedOf(payload, prompt.tokens), 24),
    onclick: () => store.set({ tokens: prompt.tokens.slice(), other: prompt.other?.slice() ?? null, answer: prompt.answer ?? null, wrong: prompt.wrong ?? null, picked: false, read: null }) }));
  return elem("div", { class: "examples", role: "group", "aria-label": "examples" }, elem("span", { class: "mut", text: "Try" }), ...buttons);
}
