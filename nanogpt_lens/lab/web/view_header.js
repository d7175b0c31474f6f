/* The line on top: the model, whether it is proven equal to PyTorch here, undo, copying, sharing, the theme. */
import { elem, pressable, setAttr, setText } from "./draw.js";
import { createPopover } from "./draw_popover.js";
import { pythonOf } from "./python.js";
import { plainWords } from "./tokens.js";
import { copyText, documentWithState, downloadText, fileNameOf, jsonOf, linkOf } from "./share.js";

const THEME_WORDS = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
const THEME_SIGNS = { auto: "◐", light: "☀", dark: "☾" };

/* The proof as {text, tone}: what was compared, or that it failed. */
function proofInWords(proof) {
  if (proof.problem) return { text: `NOT checked: ${proof.problem}; do not trust these numbers.`, tone: "bad" };
  if (!proof.outcome) return { text: "checking against PyTorch…", tone: "wait" };
  const { equal, n, largest, worst, mode } = proof.outcome;
  const place = mode === "server" ? "on the server" : "in this browser";
  const size = Number(largest).toExponential(0).replace("e+", "e");
  if (equal && n > 0) return { text: `equal to PyTorch ${place}: ${n} checks, largest error ${size}`, tone: "good" };
  const where = worst ? ` (${plainWords(worst)})` : "";
  return { text: `NOT equal to PyTorch: largest error ${size} in ${n} checks${where}; do not trust these numbers.`, tone: "bad" };
}

async function copied(page, text, what) {
  const worked = await copyText(text, page.frame);
  if (worked) page.say(`${what} copied.`, { label: "Show", act: () => page.showText(what, text) });
  else page.showText(`${what}: the browser does not let the page copy; copy it from here`, text);
}

function scriptOfPage(page) {
  const { payload, store, results } = page;
  const state = store.get();
  const { answer, wrong } = results.shown ?? { answer: state.answer ?? 0, wrong: state.wrong };
  return pythonOf(payload, { ...state, answer, wrong });
}

/* What can be shared, as [text, note, act]. */
function shareChoices(page) {
  const { payload, store } = page;
  const json = ["Copy as JSON", "the tokens and the changes", () => copied(page, jsonOf(payload, store.get()), "The changes as JSON")];
  if (!page.standalone) return [json];
  const link = ["Copy a link to this state", "for whoever has this file at the same place", () => copied(page, linkOf(store.get()), "The link")];
  const file = ["Save this file with its state", "one file to send: model, prompts and changes", () => {
    downloadText(documentWithState(page.mount, store.get()), `${fileNameOf(payload.name)}-lab.html`);
    page.say("The file is saved with its state.");
  }];
  if (payload.served) return [link, json]; // a file of this page would have no engine
  return location.protocol === "about:" ? [file, json] : [link, file, json];
}

function shareMenu(page) {
  const button = pressable("Share", null, { class: "btn pri", "aria-haspopup": "menu" });
  const items = shareChoices(page).map(([text, note, act]) => elem("button", {
    type: "button", role: "menuitem", onclick: () => { popover.leave(); act(); },
  }, elem("b", { text }), elem("small", { text: note })));
  const menu = elem("div", { class: "popover menu", role: "menu" }, ...items);
  const popover = createPopover(button, menu, { opened: () => items[0].focus() });
  return popover;
}

export function viewHeader(page) {
  const { payload, store } = page;
  const proof = elem("span", { class: "proof", role: "status" });
  const undo = pressable("Undo", () => store.undo(), { title: "Ctrl+Z" });
  const redo = pressable("Redo", () => store.redo(), { title: "Ctrl+Shift+Z" });
  const python = pressable("Copy as Python", () => copied(page, scriptOfPage(page), "The Python script"));
  const share = shareMenu(page);
  const theme = elem("button", { type: "button", class: "btn sign", onclick: () => {
    const order = ["auto", "light", "dark"];
    store.set({ theme: order[(order.indexOf(store.get().theme) + 1) % 3] });
  } });
  const help = pressable("?", () => page.startTour(), { class: "btn sign", title: "Show the tour", "aria-label": "Show the tour" });
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
