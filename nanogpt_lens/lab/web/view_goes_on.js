/* How the text goes on: sampled with and without the changes, with the same dice. */
import { elem, numberField, rebuild, setAttr, setText } from "./draw.js";
import { checkedSample } from "./state.js";
import { tokenLabel } from "./tokens.js";

/* Tokens as a line: spaces stay spaces, breaks are marks. */
function continuation(payload, ids, different) {
  return ids.map((id, i) => {
    const text = payload.vocab?.[id];
    const plain = text !== undefined && /^[\p{L}\p{N}\p{P} ]+$/u.test(text);
    const shown = plain ? text : payload.vocab ? tokenLabel(payload, id) : `${id} `;
    return elem("bdi", { class: `${i === different ? "parts " : ""}${plain || !payload.vocab ? "" : "mark"}`, text: shown });
  });
}

function createLine(name) {
  const text = elem("span", { class: "mono-text" });
  const element = elem("p", { class: "goes-on" }, elem("b", { text: name }), text);
  let drawn = null;
  return {
    element,
    update(payload, ids, different, said = "") {
      const signature = JSON.stringify([ids, different, said]);
      if (signature === drawn) return;
      drawn = signature;
      text.replaceChildren(...(said ? [elem("span", { class: "mut", text: said })] : continuation(payload, ids, different)));
    },
  };
}

function samplingControls(page) {
  const { store } = page;
  const set = (fields) => store.set({ sample: checkedSample({ ...store.get().sample, ...fields }, store.get().sample) });
  const box = elem("div", { class: "dice" });
  let drawn = null;
  return {
    element: box,
    update(sample) {
      const signature = JSON.stringify(sample);
      if (signature === drawn) return;
      drawn = signature;
      const heat = (temperature) => set({ temperature });
      const field = (text, options) => elem("label", {}, elem("span", { text }), numberField(text, options));
      const top = elem("input", {
        type: "number", class: "num-in", min: 1, step: 1, placeholder: "all", "aria-label": "top k", "data-key": "top", value: sample.top_k ?? "",
      });
      top.addEventListener("change", () => set({ top_k: top.value === "" ? null : Number(top.value) }));
      rebuild(box, [
        field("temperature", { value: sample.temperature, min: 0.05, max: 5, step: 0.1, key: "heat", onchange: heat }),
        elem("label", {}, elem("span", { text: "top k" }), top),
        field("length", { value: sample.n, min: 1, max: 400, step: 1, key: "n", onchange: (n) => set({ n }) }),
        field("seed", { value: sample.seed, min: 0, max: 2147483647, step: 1, key: "seed", onchange: (seed) => set({ seed }) }),
      ]);
    },
  };
}

function partingInWords(different) {
  if (different < 0) return "Both go on alike.";
  if (different === 0) return "They part at once.";
  return `They part after ${different} ${different === 1 ? "token" : "tokens"}.`;
}

export function viewGoesOn(page) {
  const { payload } = page;
  const lines = [createLine("as trained"), createLine("changed")];
  const controls = samplingControls(page);
  const dice = elem("button", { type: "button", class: "btn", text: "⚂ new dice", onclick: () => {
    const { sample } = page.store.get();
    page.store.set({ sample: checkedSample({ ...sample, seed: (sample.seed + 1) % 2147483647 }, sample) });
  } });
  const same = elem("p", { class: "note", role: "status" });
  const head = elem("div", { class: "goes-head" }, elem("h2", { text: "It goes on, same dice" }), dice);
  const element = elem("div", { class: "cont" }, head, ...lines.map((line) => line.element), same, controls.element);
  return {
    element,
    update(state) {
      const { spoken, shown, sampleBase, sampleNow } = page.results;
      const now = shown?.now.length ? spoken.now : null;
      const different = now ? spoken.base.findIndex((id, i) => now[i] !== undefined && now[i] !== id) : -1;
      lines[0].update(payload, spoken.base, -1, sampleBase.problem ?? (spoken.base.length ? "" : "…"));
      const waiting = now?.length ? "" : "…";
      lines[1].update(payload, now ?? [], different, now ? sampleNow.problem ?? waiting : "the same, as nothing is changed");
      setAttr(element, "aria-busy", sampleBase.busy || sampleNow.busy);
      const done = now && !sampleBase.busy && !sampleNow.busy && now.length;
      setText(same, done ? partingInWords(different) : " ");
      controls.update(state.sample);
    },
  };
}
