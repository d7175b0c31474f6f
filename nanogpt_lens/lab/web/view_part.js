/* The panel of the chosen part: what is looked at, in tabs. */
import { alongRow, elem, labelledSelect, setAttr, setText } from "./draw.js";
import { partsOf } from "./results.js";
import { partName } from "./stack.js";
import { TABS } from "./state.js";
import { plainWords } from "./tokens.js";
import { viewAttention } from "./view_attention.js";
import { viewLensTab } from "./view_lens.js";
import { viewNeurons } from "./view_neurons.js";
import { viewEdges, viewSweeps } from "./view_sweeps.js";

const TAB_VIEWS = { attention: viewAttention, lens: viewLensTab, neurons: viewNeurons, edges: viewEdges, sweeps: viewSweeps };

function partChoices({ config, findings }) {
  return partsOf(config).reverse().map((part) => {
    const label = findings?.heads?.[partName(part)]?.label;
    return [partName(part), part.mlp ? `MLP ${part.layer}` : `Head ${partName(part)}${label ? `, ${plainWords(label, 40)}` : ""}`];
  });
}

function partOfName(name) {
  if (name.startsWith("mlp")) return { layer: Number(name.slice(3)), mlp: true };
  const [layer, head] = name.split(".").map(Number);
  return { layer, head };
}

export function viewPart(page) {
  const { payload, store } = page;
  const choose = (name) => store.set({ chosen: partOfName(name) });
  const select = labelledSelect("the part that is looked at", partChoices(payload), partName(store.get().chosen), choose);
  select.className = "title-select";
  const tellsOfHeads = Object.values(payload.findings?.heads ?? {}).some((one) => one.sentence);
  const sentence = elem("p", { class: "note" });
  const wide = elem("button", { type: "button", class: "btn quiet", onclick: () => store.set({ wide: !store.get().wide }) });
  const tabs = TABS.map((name) => elem("button", {
    type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, text: name[0].toUpperCase() + name.slice(1),
    onclick: () => store.set({ tab: name }),
  }));
  const bar = elem("div", { class: "tabs", role: "tablist", "aria-label": "views" }, ...tabs);
  const views = TABS.map((name) => TAB_VIEWS[name](page));
  const panels = TABS.map((name, i) => elem("div", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}` }, views[i].element));
  const head = elem("div", { class: "card-head" }, select, wide);
  const element = elem("section", { class: "card part", "aria-label": "the chosen part" }, head, sentence, bar, ...panels);
  bar.addEventListener("keydown", (event) => {
    const to = alongRow(tabs.indexOf(event.target), event.key, tabs.length);
    if (to === null) return;
    event.preventDefault();
    store.set({ tab: TABS[to] });
    tabs[to].focus();
  });
  return {
    element,
    update(state) {
      const name = partName(state.chosen);
      if (select.value !== name) select.value = name;
      const found = payload.findings?.heads?.[name]?.sentence;
      setText(sentence, found ? plainWords(found) : " ");
      sentence.hidden = !tellsOfHeads;
      setText(wide, state.wide ? "narrower" : "wider");
      setAttr(element, "data-wide", state.wide || null);
      tabs.forEach((tab, i) => {
        const on = TABS[i] === state.tab;
        setAttr(tab, "aria-selected", on);
        tab.tabIndex = on ? 0 : -1;
        panels[i].hidden = !on;
      });
      views[TABS.indexOf(state.tab)].update(state);
    },
  };
}
