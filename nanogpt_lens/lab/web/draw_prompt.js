/* One prompt: a row of tokens as chips, or a field while it is edited. */
import { alongRow, elem, pressable, rebuild, rovingFocus, setAttr, setText } from "./draw.js";
import { readTyped, takesText, tokenLabel, typedOf, visibleText } from "./tokens.js";

/* What was typed, each unknown piece marked where it stands. */
function typedMirror(read, asText) {
  return elem("p", { class: "mirror mono-text", "aria-hidden": "true" }, ...read.pieces.flatMap(({ piece, id }) => {
    const shown = elem("bdi", { class: id === null ? "bad-piece" : "", text: visibleText(piece, 12) });
    return asText ? [shown] : [shown, " "];
  }));
}

/* The field: what can be read is taken at once; what cannot is marked where it stands. */
function createEditor(payload, { name, take, done }) {
  const asText = takesText(payload);
  const field = elem("textarea", {
    class: "mono-text", rows: 1, spellcheck: "false", autocomplete: "off", autocapitalize: "off",
    "aria-label": `${name} as ${asText ? "text" : "token ids"}`,
  });
  const mirror = elem("div", {});
  const problem = elem("p", { class: "problem", role: "status" });
  const element = elem("div", { class: "editor", hidden: true }, field, mirror, problem);

  function check() {
    const read = readTyped(payload, field.value);
    if (read.tooLong) field.value = read.pieces.map(({ piece }) => piece).join(asText ? "" : " ");
    mirror.replaceChildren(...(read.ids || !read.pieces.length ? [] : [typedMirror(read, asText)]));
    setText(problem, read.problem ?? "");
    setAttr(field, "aria-invalid", read.ids ? null : "true");
    if (read.ids) take(read.ids);
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, 200)}px`;
  }
  field.addEventListener("input", check);
  field.addEventListener("keydown", (event) => {
    const over = event.key === "Escape" || (event.key === "Enter" && (event.ctrlKey || event.metaKey));
    if (over) { event.preventDefault(); done(); }
  });
  return {
    element,
    open(ids) {
      element.hidden = false;
      field.value = typedOf(payload, ids);
      check();
      field.focus();
      field.setSelectionRange(field.value.length, field.value.length);
    },
    /* Ids that came from elsewhere (undo, an example) while it is open. */
    follow(ids) {
      if (element.hidden || JSON.stringify(readTyped(payload, field.value).ids) === JSON.stringify(ids)) return;
      field.value = typedOf(payload, ids);
      check();
    },
  };
}

/* createPrompt(page, {name, label, get(), take(ids), chip(i)}) -> {element, chips, open(), update(ids, last element)} */
export function createPrompt({ payload }, { name, label, get, take, chip }) {
  const chips = elem("div", { class: "chips", role: "toolbar", "aria-label": `tokens of the ${name}` });
  const editor = createEditor(payload, { name, take, done: () => toggle(false) });
  const edit = pressable("Edit", () => toggle(editor.element.hidden), { class: "btn quiet", "aria-label": `Edit the ${name}` });
  const body = elem("div", { class: "prompt-body" }, chips, editor.element);
  const element = elem("div", { class: "prompt" }, elem("span", { class: "prompt-name", text: label }), body, edit);
  let drawn = null;

  function toggle(open) {
    chips.hidden = open;
    setText(edit, open ? "Done" : "Edit");
    if (open) return editor.open(get() ?? []);
    editor.element.hidden = true;
    return edit.focus();
  }
  function oneChip(id, i) {
    return elem("button", { type: "button", class: "chip", "data-key": String(i), tabindex: i ? -1 : 0, onclick: () => chip?.(i) },
      elem("bdi", { text: tokenLabel(payload, id, 12) }));
  }
  rovingFocus(chips, () => Array.from(chips.querySelectorAll("button")), alongRow);
  return {
    element, chips, open: () => toggle(true),
    update(ids, last = null) {
      const signature = JSON.stringify(ids);
      if (signature === drawn) return;
      drawn = signature;
      rebuild(chips, [...ids.map(oneChip), last]);
      editor.follow(ids);
    },
  };
}
