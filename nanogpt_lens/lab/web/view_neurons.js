/* The neurons of a layer at the position that is read: by activation or by effect, searched, switched off by a click. */
import { alongRow, divergingStyle, elem, pressable, rebuild, rovingFocus, segmented, setText } from "./draw.js";
import { hookName } from "./sites.js";
import { largestSize, plainNumber, signedNumber } from "./numbers.js";
import { requestOf } from "./results.js";
import { adoptedStack, stackOf, withStack } from "./stack.js";
import { sweepInParts } from "./task.js";
import { plainWords, tokenInWords } from "./tokens.js";

const MOST_NEURONS = 72;

/* The index in a stack of the change of one neuron alone. */
function neuronIndex(items, layer, neuron) {
  return items.findIndex(({ intervention: one }) => one.activation === "mlp_post" && one.layer === layer && one.neuron === neuron);
}

function toggledNeuron(items, layer, neuron) {
  const at = neuronIndex(items, layer, neuron);
  return at >= 0 ? items.filter((_, i) => i !== at) : adoptedStack(items, { activation: "mlp_post", layer, neuron, source: "zero" });
}

/* Activations of the layer's neurons at the position that is read, with the changes. */
function activationsAt(shown, layer) {
  const found = shown?.run.activations?.[hookName("mlp_post", layer)];
  if (!found) return null;
  const width = found.shape[1];
  return found.data.subarray(shown.pos * width, (shown.pos + 1) * width);
}

function matchesNeuron(words, layer, neuron, label) {
  return !words || String(neuron) === words || `${layer}.${neuron}` === words || (label ?? "").toLowerCase().includes(words);
}

/* The measured effects of a layer's neurons are of this prompt, these changes, this measure. */
function keyOfNeurons(state, shown) {
  return JSON.stringify([state.chosen.layer, shown?.tokens, shown?.now, shown?.metric]);
}

function measureNeurons({ payload, store, results }) {
  const { shown, lab } = results;
  if (!shown) return;
  const { layer } = store.get().chosen;
  const candidates = Array.from({ length: payload.config.d_mlp }, (_, neuron) => [{ activation: "mlp_post", layer, neuron, source: "zero" }]);
  const request = requestOf(shown, shown.now, { candidates, metric: shown.metric, channel: "neurons" });
  results.neurons.want(keyOfNeurons(store.get(), shown), ({ alive, show }) => sweepInParts(lab, request, { alive, show }, 64));
}

/* The neurons that are shown: those that match the search, the largest first. */
function chosenNeurons(values, matches) {
  const size = (i) => (Number.isFinite(values[i]) ? Math.abs(values[i]) : -1);
  return Array.from(values.keys()).filter(matches).sort((a, b) => size(b) - size(a) || a - b).slice(0, MOST_NEURONS);
}

function neuronButton({ store }, { layer, neuron, label, activation, change, share, first }) {
  const off = neuronIndex(stackOf(store.get()), layer, neuron) >= 0;
  const effect = change === null ? "" : `, change without it ${signedNumber(change, 3)}`;
  const said = `neuron ${layer}.${neuron}${label ? `, ${label}` : ""}: activation ${plainNumber(activation)}${effect}${off ? ", changed" : ""}`;
  const number = change === null ? plainNumber(activation, 1) : signedNumber(change);
  const toggle = () => store.set(withStack(store.get(), toggledNeuron(stackOf(store.get()), layer, neuron)));
  return elem("button", {
    type: "button", class: "neuron", "data-key": String(neuron), "data-look": off ? "off" : null, tabindex: first ? 0 : -1,
    title: said, "aria-label": said, "aria-pressed": String(off), style: divergingStyle(share), onclick: toggle,
  }, elem("b", { text: String(neuron) }), elem("i", { text: number }), label ? elem("small", { class: "found", text: label }) : null);
}

function neuronsInWords(payload, shown, { layer, order, measured, some }) {
  if (order === "effect" && !measured) return `Of MLP ${layer}: press “Measure” to switch each neuron off once.`;
  const which = some ? `the ${MOST_NEURONS} neurons with the largest` : "the neurons'";
  if (order === "effect") return `Of MLP ${layer}, ${which} change of the answer's measure when switched off; teal: it falls, so the neuron helps.`;
  const where = `position ${shown.pos}, ${tokenInWords(payload, shown.tokens[shown.pos])}`;
  return `Of MLP ${layer}, ${which} activation at ${where}. A click switches one off, and on again.`;
}

export function viewNeurons(page) {
  const { payload, results } = page;
  let order = "activation";
  const labels = new Map((payload.findings?.neurons ?? []).map((one) => [`${one.layer}.${one.neuron}`, plainWords(one.label, 60)]));
  const choices = [["activation", "by activation"], ["effect", "by effect"]];
  const which = segmented("order of the neurons", choices, (value) => { order = value; page.draw(); });
  const search = elem("input", { type: "search", placeholder: "number or label", "aria-label": "search neurons", oninput: () => page.draw() });
  const measure = pressable("", () => {
    if (results.neurons.busy) return results.neurons.drop();
    order = "effect";
    return measureNeurons(page);
  });
  const strip = elem("div", { class: "neurons", role: "group", "aria-label": "neurons; a click switches one off" });
  const note = elem("p", { class: "note" });
  const problem = elem("p", { class: "problem" });
  const along = { ArrowDown: "ArrowRight", ArrowUp: "ArrowLeft" };
  rovingFocus(strip, () => Array.from(strip.children), (at, key, n) => alongRow(at, along[key] ?? key, n));
  return {
    element: elem("div", {}, elem("div", { class: "row" }, which.element, search, measure), strip, problem, note),
    update(state) {
      const { shown, neurons } = results;
      const { layer } = state.chosen;
      which.update(order);
      setText(measure, neurons.busy ? `Stop (${Math.round(100 * (neurons.progress ?? 0))}%)` : `Measure all ${payload.config.d_mlp}`);
      setText(problem, neurons.problem ?? "");
      const activations = activationsAt(shown, layer);
      if (!activations) return;
      const measured = neurons.key === keyOfNeurons(state, shown) ? neurons.value : null;
      const changes = order === "effect" ? measured : null;
      const values = changes ?? activations;
      const words = search.value.trim().toLowerCase();
      const ids = chosenNeurons(values, (i) => matchesNeuron(words, layer, i, labels.get(`${layer}.${i}`)));
      const largest = largestSize(values, changes ? 0.005 : 0.1);
      rebuild(strip, ids.map((neuron, at) => neuronButton(page, {
        layer, neuron, label: labels.get(`${layer}.${neuron}`), activation: activations[neuron], change: changes ? changes[neuron] : null,
        share: (changes ? -1 : 1) * values[neuron] / largest, first: at === 0,
      })));
      setText(note, neuronsInWords(payload, shown, { layer, order, measured, some: activations.length > ids.length && !words }));
    },
  };
}
