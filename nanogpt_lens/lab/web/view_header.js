/* The line on top: the model, whether it is proven equal to PyTorch here, undo, copying, sharing, the theme. */
import { elem, setAttr, setText } from "./draw.js";
import { pythonOf } from "./python.js";
import { plainWords } from "./tokens.js";
import { copyText, documentWithState, downloadText, fileNameOf, jsonOf, linkOf } from "./share.js";

const THEME_WORDS = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
const THEME_SIGNS = { auto: "◐", light: "☀", dark: "☾" };

/* The proof as {text, tone}: what was compared, or that it failed. */
function proofInWords(proof) {
  if (!proof.outcome) return proof.problem ? { text: `NOT checked: ${proof.problem}; do not trust these numbers.`, tone: "bad" } : { text: "checking against PyTorch…", tone: "wait" };
  const { equal, n, largest, worst } = proof.outcome;
  const size = Number(largest).toExponential(0).replace("e+", "e");
  if (equal && n > 0) return { text: `equal to PyTorch in this browser: ${n} checks, largest error ${size}`, tone: "good" };
  return { text: `NOT equal to PyTorch: largest error ${size} in ${n} checks${worst ? ` (${plainWords(worst)})` : ""}; do not trust these numbers.`, tone: "bad" };
}

function actionButton(text, onclick, more = {}) {
  return elem("button", { type: "button", class: "btn", text, onclick, ...more });
}

async function copied(page, text, what) {
  const worked = await copyText(text, page.frame);
  if (worked) page.say(`${what} copied.`, { label: "Show", act: () => page.showText(what, text) });
  else page.showText(`${what}: the browser does not let the page copy; copy it from here`, text);
}

function scriptOfPage(page) {
  const { payload, store, results } = page;
  const state = store.get();
  return pythonOf(payload, { ...state, answer: results.shown?.answer ?? state.answer ?? 0, wrong: results.shown ? results.shown.wrong : state.wrong });
}

function shareMenu(page) {
  const { payload, store, standalone } = page;
  const button = actionButton("Share", () => toggle(menu.hidden), { class: "btn pri", "aria-haspopup": "menu", "aria-expanded": "false" });
  const item = (text, note, act) => elem("button", { type: "button", role: "menuitem", onclick: () => { toggle(false); button.focus(); act(); } },
    elem("b", { text }), elem("small", { text: note }));
  const items = [item("Copy as JSON", "the tokens and the changes", () => copied(page, jsonOf(payload, store.get()), "The changes as JSON"))];
  if (standalone) {
    if (location.protocol !== "about:") items.unshift(item("Copy a link to this state", "for whoever has this file at the same place", () => copied(page, linkOf(store.get()), "The link")));
    items.unshift(
      item("Save this file with its state", "one file to send: model, prompts and changes", () => {
        downloadText(documentWithState(page.mount, store.get()), `${fileNameOf(payload.name)}-lab.html`);
        page.say("The file is saved with its state.");
      }),
    );
  }
  const menu = elem("div", { class: "popover menu", role: "menu", hidden: true }, ...items);
  function toggle(open) {
    menu.hidden = !open;
    setAttr(button, "aria-expanded", open);
    if (open) items[0].focus();
  }
  const element = elem("span", { class: "pick-frame" }, button, menu);
  element.addEventListener("keydown", (event) => {
    if (menu.hidden) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { event.stopPropagation(); toggle(false); button.focus(); }
    if (!step) return;
    event.preventDefault();
    items[(items.indexOf(event.target.closest("button")) + step + items.length) % items.length]?.focus();
  });
  element.addEventListener("focusout", (event) => { if (event.relatedTarget && !element.contains(event.relatedTarget)) toggle(false); });
  return { element, close: () => { if (!menu.hidden) toggle(false); } };
}

export function viewHeader(page) {
  const { payload, store } = page;
  const proof = elem("span", { class: "proof", role: "status" });
  const undo = actionButton("Undo", () => store.undo(), { title: "Ctrl+Z" });
  const redo = actionButton("Redo", () => store.redo(), { title: "Ctrl+Shift+Z" });
  const python = actionButton("Copy as Python", () => copied(page, scriptOfPage(page), "The Python script"));
  const share = shareMenu(page);
  const theme = elem("button", { type: "button", class: "btn sign", onclick: () => {
    const order = ["auto", "light", "dark"];
    store.set({ theme: order[(order.indexOf(store.get().theme) + 1) % 3] });
  } });
  const help = elem("button", { type: "button", class: "btn sign", text: "?", title: "Show the tour", "aria-label": "Show the tour", onclick: () => page.startTour() });
  const name = elem("h1", {}, elem("bdi", { text: plainWords(payload.name, 80) }));
  if (payload.sha256) name.title = `SHA-256 of the checkpoint: ${payload.sha256}`;
  const element = elem("header", { class: "top" }, name, proof, elem("span", { class: "sp" }),
    elem("div", { class: "tools" }, undo, redo, python, share.element, theme, help));
  return {
    element,
    close: share.close,
    update(state) {
      const { text, tone } = proofInWords(page.proof);
      setText(proof, text);
      setAttr(proof, "data-tone", tone);
      undo.disabled = !store.canUndo();
      redo.disabled = !store.canRedo();
      setText(theme, THEME_SIGNS[state.theme]);
      setAttr(theme, "aria-label", THEME_WORDS[state.theme]);
      setAttr(theme, "title", THEME_WORDS[state.theme]);
    },
  };
}
