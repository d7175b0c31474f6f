/* The page: the views around one store and one engine, drawn together at most once a frame. */
import { elem, pressable, setText } from "./draw.js";
import { createResults } from "./results.js";
import { createStore } from "./store.js";
import { cyclePartOf, viewModel } from "./view_model.js";
import { viewGoesOn } from "./view_goes_on.js";
import { viewHeader } from "./view_header.js";
import { viewLensCard } from "./view_lens.js";
import { viewPart } from "./view_part.js";
import { viewPrompts } from "./view_prompts.js";
import { viewSays } from "./view_says.js";
import { viewStack } from "./view_stack.js";
import { createTour } from "./view_tour.js";

/* A line at the bottom that goes away, with at most one thing to do. */
function createToast() {
  const element = elem("div", { class: "toast", role: "status", hidden: true });
  let timer = null;
  return {
    element,
    say(text, action = null) {
      const more = action ? [pressable(action.label, action.act, { class: "btn quiet" })] : [];
      element.replaceChildren(elem("span", { text }), ...more);
      element.hidden = false;
      clearTimeout(timer);
      timer = setTimeout(() => { element.hidden = true; }, 6000);
    },
    close: () => clearTimeout(timer),
  };
}

/* A dialog that shows a text to be copied. */
function createTextDialog() {
  const title = elem("h2");
  const text = elem("textarea", { class: "mono-text", readonly: true, rows: 16, spellcheck: "false", "aria-label": "text" });
  const close = pressable("Close", () => element.close());
  const element = elem("dialog", { class: "text-dialog" }, title, text, elem("div", { class: "row" }, elem("span", { class: "sp" }), close));
  return {
    element,
    show(heading, words) {
      setText(title, heading);
      text.value = words;
      element.showModal();
      text.focus();
      text.select();
    },
  };
}

function themeOf(state) {
  if (state.theme !== "auto") return state.theme;
  const around = document.documentElement.dataset.theme; // of a report that holds the lab
  if (around) return around;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/* The theme's colours, in a file of its own also behind the page. */
function drawTheme({ frame, store, standalone }) {
  const theme = themeOf(store.get());
  if (frame.getAttribute("data-theme") === theme) return;
  frame.setAttribute("data-theme", theme);
  if (standalone) document.body.style.background = getComputedStyle(frame).backgroundColor;
}

/* Keys of the whole page: undo and redo where no text is being typed. */
function pageKeys(store) {
  return (event) => {
    const from = event.composedPath()[0];
    const typing = from instanceof Element && from.matches("textarea, input, select");
    if (typing || !(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key === "z") { event.preventDefault(); event.shiftKey ? store.redo() : store.undo(); }
    if (key === "y") { event.preventDefault(); store.redo(); }
  };
}

function layoutOf(page, views) {
  const { header, prompts, model, says, goesOn, part, stack, lens } = views;
  const middle = elem("section", { class: "card", "data-tour": "says", "aria-label": "what the model says" }, says.element, goesOn.element);
  const main = elem("main", {}, prompts.element, model.element, middle, part.element, stack.element, lens.element);
  page.frame.append(header.element, page.tour.element, main, page.toast.element, page.dialog.element);
}

/* What the views share: the data, the store, and what they may ask of the page. */
function pageOf({ root, payload, state, standalone, mount }) {
  const store = createStore(state);
  const frame = elem("div", { class: "lab", lang: "en", "data-whole": standalone || null });
  const [toast, dialog] = [createToast(), createTextDialog()];
  const page = { root, frame, payload, store, standalone, mount, toast, dialog, proof: { outcome: null, problem: null } };
  return Object.assign(page, {
    say: toast.say, showText: dialog.show,
    hasOther: () => store.get().other?.length === store.get().tokens.length, // one that activations can be taken from
    hasMean: () => Boolean(payload.reference?.length),
    cyclePart: (part) => cyclePartOf(page, part),
    startTour: () => page.tour.start(),
    results: createResults({ payload, store, changed: () => page.draw() }),
  });
}

function viewsOf(page) {
  return {
    header: viewHeader(page), prompts: viewPrompts(page), model: viewModel(page), says: viewSays(page), goesOn: viewGoesOn(page),
    part: viewPart(page), stack: viewStack(page), lens: viewLensCard(page),
  };
}

/* A press outside a list that is open closes it. */
function closesLists(views) {
  return (event) => {
    const inside = event.composedPath().some((one) => one instanceof Element && one.matches(".pick-frame"));
    if (!inside) Object.values(views).forEach((view) => view.close?.());
  };
}

const FIRST = ["says", "model", "prompts", "stack"]; // what a click is about; large tables follow
const WAIT = { first: 40, rest: 100 }; // milliseconds that drawing waits for a run on its way: one drawing shows it too

/* Work that is done once it is due: plan(delay) may bring it forward and never puts it off. */
function createTurn(work) {
  let timer = 0, due = Infinity;
  return {
    plan(delay) {
      const at = performance.now() + delay;
      if (at >= due) return;
      clearTimeout(timer);
      due = at;
      timer = setTimeout(() => { due = Infinity; work(); }, delay);
    },
    stop() { clearTimeout(timer); due = -Infinity; },
  };
}

/* createPage({root, payload, state, standalone, mount}) -> the page: connect(lab) begins to compute. */
export function createPage(options) {
  const page = pageOf(options);
  const { frame, store, standalone } = page;
  page.tour = createTour(page);
  const views = viewsOf(page);
  layoutOf(page, views);
  page.root.append(frame);
  const wait = (most) => (page.results.running(store.get()) ? most : 0);
  const rest = createTurn(() => {
    for (const [name, view] of Object.entries(views)) if (!FIRST.includes(name)) view.update(store.get());
  });
  function drawFirst() {
    drawTheme(page);
    for (const name of FIRST) views[name].update(store.get());
    rest.plan(wait(WAIT.rest));
  }
  const first = createTurn(drawFirst);
  page.draw = () => first.plan(wait(WAIT.first));
  const compute = () => { if (page.results.lab) page.results.refresh(); };
  const unlisten = store.listen(() => { compute(); page.draw(); });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const keys = pageKeys(store), keysAt = standalone ? document : frame;
  scheme.addEventListener("change", page.draw);
  window.addEventListener("ngl-theme", page.draw);
  frame.addEventListener("pointerdown", closesLists(views));
  keysAt.addEventListener("keydown", keys);
  page.connect = (lab) => { page.results.lab = lab; compute(); page.draw(); };
  page.close = () => {
    first.stop();
    rest.stop();
    unlisten();
    page.toast.close();
    scheme.removeEventListener("change", page.draw);
    window.removeEventListener("ngl-theme", page.draw);
    keysAt.removeEventListener("keydown", keys);
  };
  drawFirst();
  return page;
}
