/* The neurons of a layer at the position that is read: by activation or by effect, searched, switched off by a click. */
import { alongRow, divergingStyle, elem, rebuild, rovingFocus, segmented, setText } from "./draw.js";
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

export function viewNeurons(page) {
  const { payload, store, results } = page;
  let order = "activation";
  const labels = new Map((payload.findings?.neurons ?? []).map((one) => [`${one.layer}.${one.neuron}`, plainWords(one.label, 60)]));
  const which = segmented("order of the neurons", [["activation", "by activation"], ["effect", "by effect"]], (value) => { order = value; page.draw(); });
  const search = elem("input", { type: "search", placeholder: "number or label", "aria-label": "search neurons", oninput: () => page.draw() });
  const measure = elem("button", { type: "button", class: "btn", onclick: () => (results.neurons.busy ? results.neurons.drop() : measureNeurons()) });
  const strip = elem("div", { class: "neurons", role: "group", "aria-label": "neurons; a click switches one off" });
  const note = elem("p", { class: "note" });
  const problem = elem("p", { class: "problem" });
  const element = elem("div", {}, elem("div", { class: "row" }, which.element, search, measure), strip, problem, note);
  rovingFocus(strip, () => Array.from(strip.children), (at, key, n) => alongRow(at, { ArrowDown: "ArrowRight", ArrowUp: "ArrowLeft" }[key] ?? key, n));

  const keyNow = () => JSON.stringify([store.get().chosen.layer, results.shown?.tokens, results.shown?.now, results.shown?.metric]);
  function measureNeurons() {
    const { shown } = results;
    if (!shown) return;
    const { layer } = store.get().chosen;
    const candidates = Array.from({ length: payload.config.d_mlp }, (_, neuron) => [{ activation: "mlp_post", layer, neuron, source: "zero" }]);
    const request = requestOf(shown, shown.now, { candidates, metric: shown.metric, channel: "neurons" });
    order = "effect";
    const key = keyNow();
    results.neurons.want(key, ({ alive, show }) => sweepInParts(results.lab, request, { alive, show: (values, part) => show(values, part) }, 64));
  }
  return {
    element,
    update(state) {
      const { shown, neurons } = results;
      const { layer } = state.chosen;
      which.update(order);
      setText(measure, neurons.busy ? `Stop (${Math.round(100 * (neurons.progress ?? 0))}%)` : `Measure all ${payload.config.d_mlp}`);
      setText(problem, neurons.problem ?? "");
      const activations = activationsAt(shown, layer);
      if (!activations) return;
      const measured = neurons.key === keyNow() && neurons.value ? neurons.value : null;
      const values = order === "effect" ? measured ?? new Float64Array(activations.length).fill(NaN) : activations;
      const words = search.value.trim().toLowerCase();
      const stack = stackOf(state);
      const size = (i) => (Number.isFinite(values[i]) ? Math.abs(values[i]) : -1);
      const ids = Array.from(values.keys()).filter((i) => matchesNeuron(words, layer, i, labels.get(`${layer}.${i}`)))
        .sort((a, b) => size(b) - size(a) || a - b).slice(0, MOST_NEURONS);
      const largest = largestSize(values, order === "effect" ? 0.005 : 0.1);
      rebuild(strip, ids.map((i, at) => {
        const off = neuronIndex(stack, layer, i) >= 0, label = labels.get(`${layer}.${i}`);
        const said = `neuron ${layer}.${i}${label ? `, ${label}` : ""}: activation ${plainNumber(activations[i])}${order === "effect" && Number.isFinite(values[i]) ? `, change without it ${signedNumber(values[i], 3)}` : ""}${off ? ", changed" : ""}`;
        return elem("button", { type: "button", class: "neuron", "data-key": String(i), "data-look": off ? "off" : null, tabindex: at ? -1 : 0, title: said, "aria-label": said, "aria-pressed": off,
          style: divergingStyle(values[i] / largest), onclick: () => store.set(withStack(store.get(), toggledNeuron(stackOf(store.get()), layer, i))) },
        elem("b", { text: String(i) }), elem("i", { text: Number.isFinite(values[i]) ? (order === "effect" ? signedNumber(values[i], 2) : plainNumber(values[i], 1)) : "–" }), label ? elem("small", { class: "found", text: label }) : null);
      }));
      const many = activations.length > ids.length ? `the ${ids.length} of ${activations.length} neurons with the largest` : "the neurons'";
      setText(note, order === "effect"
        ? `Of MLP ${layer}, ${many} change of the answer's measure when switched off${measured ? "" : "; press “Measure”"}.`
        : `Of MLP ${layer}, ${many} activation at position ${shown.pos}, ${tokenInWords(payload, shown.tokens[shown.pos])}. A click switches one off, and on again.`);
    },
  };
}
