/* The tabs of edges and sweeps: what to measure, and with what in its place. */
import { elem, rebuild, labelledSelect } from "./draw.js";
import { edgeTable, sourcesOf, SWEEPS } from "./sweeps.js";
import { createTable } from "./view_table.js";

/* A bar of selects that is drawn anew only where its choices change. */
function choiceBar() {
  const element = elem("div", { class: "row" });
  let drawn = null;
  return {
    element,
    update(signature, make) {
      if (signature === drawn) return;
      drawn = signature;
      rebuild(element, make());
    },
  };
}

function sourceChoices(page) {
  return sourcesOf({ mean: page.hasMean(), other: page.hasOther() });
}

function sourceChoice(choices, source, take) {
  return labelledSelect("source", choices.map(([value, text]) => [value, value === "zero" ? "nothing (off)" : text]), source, take, "source");
}

function layerSelect({ payload, store }, state) {
  const layers = Array.from({ length: payload.config.n_layers }, (_, layer) => [layer, String(layer)]);
  const take = (layer) => store.set({ chosen: { ...store.get().chosen, layer: Number(layer) } });
  return labelledSelect("receiving layer", layers, state.chosen.layer, take, "layer");
}

export function viewEdges(page) {
  const { payload, store } = page;
  let source = "zero";
  const bar = choiceBar();
  const intact = () => (sourceChoices(page).some(([value]) => value === source) ? source : "zero");
  const table = createTable(page, {
    name: "edges", label: "edges: rows send, columns receive; arrow keys move, Enter adopts",
    table: () => edgeTable(payload.config, store.get().chosen.layer, intact()),
    axes: () => `What each column (a receiver in layer ${store.get().chosen.layer}) reads of what each row wrote, taken away alone.`,
  });
  return {
    element: elem("div", {}, bar.element, table.element),
    update(state) {
      const choices = sourceChoices(page);
      bar.update(JSON.stringify([choices, state.chosen.layer, intact()]), () => [
        elem("label", {}, "into layer ", layerSelect(page, state)),
        elem("label", {}, "replaced by ", sourceChoice(choices, intact(), (value) => { source = value; page.draw(); })),
      ]);
      table.update();
    },
  };
}

export function viewSweeps(page) {
  const { payload, store } = page;
  let kind = "parts", source = "zero";
  const bar = choiceBar();
  const intact = () => (sourceChoices(page).some(([value]) => value === source) ? source : "zero");
  const table = createTable(page, {
    name: "sweeps", label: "the sweep; arrow keys move, Enter adopts",
    table: () => SWEEPS[kind].make(payload, store.get(), intact()),
    axes: () => {
      const patching = kind === "streams" && intact() === "other" ? " This is activation patching." : "";
      return `The effect of replacing ${SWEEPS[kind].text}, one at a time, on top of your changes.${patching}`;
    },
  });
  return {
    element: elem("div", {}, bar.element, table.element),
    update() {
      const choices = sourceChoices(page);
      bar.update(JSON.stringify([choices, kind, intact()]), () => [
        labelledSelect("what is swept", Object.entries(SWEEPS).map(([name, { text }]) => [name, text]), kind, (value) => {
          kind = value;
          if (kind === "streams" && page.hasOther()) source = "other";
          page.draw();
        }, "kind"),
        elem("label", {}, "by ", sourceChoice(choices, intact(), (value) => { source = value; page.draw(); })),
      ]);
      table.update();
    },
  };
}
