/* Three steps on the first opening: what is true of this model, and where to click. */
import { elem, setText } from "./draw.js";
import { plainWords } from "./tokens.js";

const OWN_TARGETS = ["model", "says", "stack"];
const TOLD_TARGETS = ["model", "says", "model"];
const TOUR_KEY = "nanogpt-lens-lab-toured";

function ownSteps({ name }) {
  return [
    `Every block is a part of ${plainWords(name, 60)}: layers from the bottom up, heads and an MLP in each. Its colour says what `
      + "happens to the next token when this part is switched off, measured now, in this page.",
    "Click a block: it is switched off and the model is computed anew. Click again for its average, the other prompt's, or twice as much.",
    "What you changed is kept here. Undo, compare two sets, share the link or the file, or copy it all as Python that gives the same numbers.",
  ];
}

function remembered() {
  try { return localStorage.getItem(TOUR_KEY) === "yes"; } catch { return false; }
}

function remember() {
  try { localStorage.setItem(TOUR_KEY, "yes"); } catch { /* a page from a file may have no storage */ }
}

/* createTour(page) -> {element, start(), begin(): on first opening alone} */
export function createTour(page) {
  const { payload, store } = page;
  const told = payload.findings?.tour;
  const fromPython = Array.isArray(told) && told.length > 0;
  const targets = fromPython ? TOLD_TARGETS : OWN_TARGETS;
  const steps = fromPython ? told.slice(0, 3).map((step) => plainWords(step, 600)) : ownSteps(payload);
  const count = elem("span", { class: "mut" });
  const text = elem("p");
  const next = elem("button", { type: "button", class: "btn pri", onclick: () => go(at + 1) });
  const close = elem("button", { type: "button", class: "btn quiet", text: "Close", onclick: () => go(steps.length) });
  const row = elem("div", { class: "row" }, count, elem("span", { class: "sp" }), close, next);
  const element = elem("div", { class: "tour", role: "dialog", "aria-label": "a short tour", hidden: true, tabindex: -1 }, text, row);
  let at = 0, before = null;
  element.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); go(steps.length); } });

  function mark(name) {
    page.frame.querySelectorAll("[data-tour]").forEach((target) => target.toggleAttribute("data-pointed", target.dataset.tour === name));
  }
  function go(step, quiet = false) {
    at = step;
    const over = step >= steps.length;
    element.hidden = over;
    mark(over ? null : targets[step]);
    if (over) {
      remember();
      store.set({ toured: true });
      before?.focus?.({ preventScroll: true });
      return;
    }
    setText(text, steps[step]);
    setText(count, `${step + 1} of ${steps.length}`);
    setText(next, step === steps.length - 1 ? "Begin" : "Next");
    if (quiet) return;
    const target = page.frame.querySelector(`[data-tour="${targets[step]}"]`);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    target?.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
    next.focus({ preventScroll: true });
  }
  return {
    element,
    start() { before = page.root.activeElement; go(0); },
    begin() { if (!store.get().toured && !remembered()) go(0, true); },
  };
}
