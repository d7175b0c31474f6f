/* A form for any change: which activation, where, and what takes its place, directions too. */
import { checkedIntervention, DIFFERENCES, SITE_AXES, STREAMS } from "./checks.js";
import { elem, labelledSelect, rebuild, setAttr, setText } from "./draw.js";
import { adoptedStack, stackOf, withStack } from "./stack.js";
import { plainWords, tokenLabel } from "./tokens.js";
import { interventionInWords } from "./words.js";

const SITE_WORDS = {
  z: "head (z)", mlp_out: "MLP's output",
  resid_post: "stream after a layer", resid_mid: "stream in the middle of a layer", resid_pre: "stream before a layer",
  attn_out: "attention's output", q: "queries", k: "keys", v: "values", pattern: "attention pattern",
  mlp_post: "neurons", mlp_pre: "neurons before their function", edge: "edge",
};
const SOURCE_WORDS = {
  zero: "nothing (off)", mean: "its average", other: "the other prompt's", scale: "itself, scaled", add: "itself, plus a direction",
};
const AXIS_WORDS = { layer: "layer", head: "head", neuron: "neuron", pos: "position", dest_pos: "row (from)", src_pos: "column (to)" };

/* "all", "3", "0, 2" or "-1" as null, a number or a list; undefined where it is none of these. */
function readPlaces(text) {
  const words = text.trim();
  if (words === "" || words === "all") return null;
  const numbers = words.split(/[\s,]+/).map((word) => (/^-?\d{1,6}$/.test(word) ? Number(word) : NaN));
  if (numbers.some(Number.isNaN)) return undefined;
  return numbers.length === 1 ? numbers[0] : numbers;
}

function directionChoices(payload, other) {
  const kinds = [["token", "a token's unembedding"], ["neuron", "what a neuron writes"]];
  if (other) kinds.push(["difference", "the other prompt minus this one"]);
  if (Object.keys(payload.directions ?? {}).length) kinds.push(["stored", "stored with the file"]);
  return kinds;
}

function directionOfForm(form) {
  const number = (text) => (/^-?\d+$/.test(String(text).trim()) ? Number(text) : NaN);
  if (form.direction === "token") return { token: number(form.token) };
  if (form.direction === "neuron") return { neuron: String(form.neuronOf).split(".").map(number) };
  if (form.direction === "stored") return { stored: form.stored };
  return { difference: { activation: form.differenceAt, layer: number(form.differenceLayer), pos: number(form.differencePos) } };
}

/* What the form says as an intervention; null where it is none. */
function interventionOfForm(payload, form) {
  const one = { activation: form.activation };
  if (form.activation === "edge") one.edge = form.edge.replace(/\s/g, "");
  const axes = form.activation === "edge" ? ["pos"] : ["layer", ...SITE_AXES[form.activation]];
  for (const axis of axes) {
    const places = readPlaces(form.places[axis] ?? "");
    if (places === undefined) return null;
    if (places !== null) one[axis] = places;
  }
  const scale = Number(form.scale);
  if (form.source === "scale") one.source = { scale };
  else if (form.source === "add") one.source = { add: form.activation === "pattern" ? [1] : directionOfForm(form), scale };
  else one.source = form.source;
  return checkedIntervention(payload, one);
}

function directionFields(page, form, field, select) {
  const { payload, store } = page;
  if (form.activation === "pattern") return [];
  const fields = [select("direction", "direction", directionChoices(payload, Boolean(store.get().other)))];
  if (form.direction === "token") {
    const n = Math.min(payload.config.n_tokens ?? payload.config.d_vocab, 2000);
    fields.push(select("token", "token", Array.from({ length: n }, (_, id) => [String(id), `${tokenLabel(payload, id, 12)} (${id})`])));
  } else if (form.direction === "neuron") fields.push(field("neuronOf", "neuron", "0.33"));
  else if (form.direction === "stored") {
    fields.push(select("stored", "stored direction", Object.keys(payload.directions ?? {}).map((name) => [name, plainWords(name, 60)])));
  } else {
    fields.push(select("differenceAt", "stream", DIFFERENCES.map((site) => [site, SITE_WORDS[site]])));
    fields.push(field("differenceLayer", "its layer", "0"), field("differencePos", "its position", String(store.get().tokens.length - 1)));
  }
  return fields;
}

function formFields(page, form, redraw) {
  const { payload } = page;
  const field = (name, label, placeholder, of = form) => elem("label", {}, elem("span", { text: label }), elem("input", {
    type: "text", class: "place-in", value: of[name] ?? "", placeholder, "data-key": `add ${name}`, "aria-label": label,
    oninput: (event) => { of[name] = event.target.value; redraw(false); },
  }));
  const select = (name, label, choices) => {
    if (!choices.some(([value]) => value === form[name])) form[name] = choices[0][0];
    const take = (value) => { form[name] = value; redraw(true); };
    return elem("label", {}, elem("span", { text: label }), labelledSelect(label, choices, form[name], take, `add ${name}`));
  };
  const edge = form.activation === "edge";
  const axes = edge ? ["pos"] : ["layer", ...SITE_AXES[form.activation]];
  const canAdd = STREAMS.includes(form.activation) || form.activation === "pattern";
  const sources = ["zero", ...(page.hasMean() ? ["mean"] : []), ...(page.hasOther() ? ["other"] : []), "scale", ...(canAdd ? ["add"] : [])];
  return [
    select("activation", "what", Object.entries(SITE_WORDS)),
    edge ? field("edge", "edge", "0.1->1.0.k") : null,
    ...axes.map((axis) => field(axis, AXIS_WORDS[axis], "all", form.places)),
    select("source", "becomes", sources.map((source) => [source, SOURCE_WORDS[source]])),
    form.source === "scale" || form.source === "add" ? field("scale", "times", "2") : null,
    ...(form.source === "add" ? directionFields(page, form, field, select) : []),
  ].filter(Boolean);
}

/* What the form says at first: a token's direction, added to the last stream. */
function firstForm(payload) {
  const last = String(payload.config.n_layers - 1);
  return {
    activation: "resid_post", places: { layer: last }, edge: "", source: "add", scale: "4",
    direction: "token", token: "0", neuronOf: `${last}.0`, stored: Object.keys(payload.directions ?? {})[0] ?? "",
    differenceAt: "resid_post", differenceLayer: last, differencePos: "-1",
  };
}

export function viewAdd(page) {
  const { payload, store } = page;
  const form = firstForm(payload);
  const open = elem("button", { type: "button", class: "add", text: "+ add", "aria-expanded": "false", onclick: () => toggle(panel.hidden) });
  const fields = elem("div", { class: "row fields" });
  const said = elem("p", { class: "note", role: "status" });
  const put = elem("button", { type: "submit", class: "btn pri", text: "Add" });
  const panel = elem("form", { class: "add-form", hidden: true, onsubmit: (event) => {
    event.preventDefault();
    const one = interventionOfForm(payload, form);
    const state = store.get();
    if (one) store.set(withStack(state, adoptedStack(stackOf(state), one)));
  } }, fields, elem("div", { class: "row" }, put, said));
  function toggle(yes) {
    panel.hidden = !yes;
    setAttr(open, "aria-expanded", yes);
    setText(open, yes ? "close the form" : "+ add");
    if (yes) { redraw(true); fields.querySelector("select")?.focus(); }
  }
  function redraw(whole) {
    if (whole) rebuild(fields, formFields(page, form, redraw));
    const one = interventionOfForm(payload, form);
    put.disabled = !one;
    const wrong = "This does not fit the model: expected numbers that it has, with commas between, or “all”.";
    setText(said, one ? interventionInWords(payload, store.get().tokens, one) : wrong);
  }
  let drawn = null;
  return {
    element: elem("div", { class: "adding" }, open, panel),
    close: () => {},
    update(state) {
      const signature = JSON.stringify([state.other?.length, state.tokens.length]);
      if (signature === drawn || panel.hidden) return;
      drawn = signature;
      redraw(true);
    },
  };
}
