/* Interventions as the page gets them (the package's JSON), held against the model and the text.

   A resolved edit names its layers, its units (heads or neurons) and its rows (positions), counted from the start. */

/* activation: its hook point below `blocks.{layer}.`, and what it is divided into besides positions */
export const SITES = {
  resid_pre: { hook: "hook_resid_pre", unit: null },
  q: { hook: "attn.hook_q", unit: "head" },
  k: { hook: "attn.hook_k", unit: "head" },
  v: { hook: "attn.hook_v", unit: "head" },
  pattern: { hook: "attn.hook_pattern", unit: "head" },
  z: { hook: "attn.hook_z", unit: "head" },
  attn_out: { hook: "hook_attn_out", unit: null },
  resid_mid: { hook: "hook_resid_mid", unit: null },
  mlp_pre: { hook: "mlp.hook_pre", unit: "neuron" },
  mlp_post: { hook: "mlp.hook_post", unit: "neuron" },
  mlp_out: { hook: "hook_mlp_out", unit: null },
  resid_post: { hook: "hook_resid_post", unit: null },
};
const FIELDS = ["activation", "layer", "head", "neuron", "pos", "dest_pos", "src_pos", "edge", "source"];
const AXES = ["head", "neuron", "pos", "dest_pos", "src_pos"];

export function hookName(activation, layer) {
  return `blocks.${layer}.${SITES[activation].hook}`;
}

/* The width of one unit of an activation, and how many units it has. */
export function unitsOf(config, activation) {
  const unit = SITES[activation].unit;
  if (unit === "head") return { count: config.n_heads, width: config.d_head };
  if (unit === "neuron") return { count: config.d_mlp, width: 1 };
  return { count: 1, width: config.d_model };
}

/* Every intervention resolved for a text of n tokens; an error is one sentence. */
export function resolveAll(config, interventions, n) {
  if (!Array.isArray(interventions)) throw new Error("interventions is no list; expected a list of objects");
  return interventions.map((one) => resolve(config, one, n));
}

function resolve(config, given, n) {
  const one = given && given.place !== undefined ? fromPlace(given) : given;
  if (!one || typeof one !== "object") throw new Error(`the intervention is ${JSON.stringify(given)}; expected an object`);
  const unknown = Object.keys(one).find((name) => !FIELDS.includes(name));
  if (unknown) throw new Error(`an intervention has no field '${unknown}'; expected some of ${FIELDS.join(", ")}`);
  const source = sourceOf(one.source === undefined ? "zero" : one.source);
  if (one.activation === "edge") return resolveEdge(config, one, source, n);
  const activation = plainName(one.activation);
  const site = SITES[activation];
  if (!site) throw new Error(`the activation '${one.activation}' cannot be replaced; expected one of ${Object.keys(SITES).join(", ")}, edge`);
  const axes = activation === "pattern" ? ["head", "dest_pos", "src_pos"] : site.unit ? [site.unit, "pos"] : ["pos"];
  const wrong = AXES.find((axis) => !axes.includes(axis) && some(one[axis]));
  if (wrong) throw new Error(`${activation} has no ${wrong}; expected some of layer, ${axes.join(", ")}`);
  const layers = indices("layer", one.layer, config.n_layers) || range(config.n_layers);
  const units = site.unit ? indices(site.unit, one[site.unit], site.unit === "head" ? config.n_heads : config.d_mlp) : null;
  const edit = { activation, layers, units, source };
  if (activation === "pattern") {
    edit.rows = positions("dest_pos", one.dest_pos, n);
    edit.columns = positions("src_pos", one.src_pos, n);
  } else {
    edit.rows = positions("pos", one.pos, n);
  }
  checkDirection(config, edit);
  return edit;
}

export function plainName(activation) {
  const name = String(activation).replace(/^attn\./, "").replace(/^mlp\.hook_/, "mlp_").replace(/^hook_/, "");
  return name === "post" || name === "neurons" ? "mlp_post" : name;
}

/* "0.1" is a head's z, "0.1.k" its keys, "mlp0" an MLP's output, "L3N33" a neuron, "0.1->mlp1" an edge */
function fromPlace({ place, source = "zero", activation, pos = null }) {
  if (String(place).includes("->")) return { activation: "edge", edge: place, pos, source };
  const mlp = /^mlp(\d+)$/i.exec(place);
  if (mlp) return { activation: activation || "mlp_out", layer: Number(mlp[1]), pos, source };
  const unit = /^L?(\d+)([.HN])(\d+)(?:\.([qkvz]))?$/i.exec(place);
  if (!unit) throw new Error(`'${place}' is no place; expected a head such as '0.1', its '0.1.k', 'mlp0', or 'L3N33'`);
  const neuron = unit[2].toUpperCase() === "N" || (activation && activation.startsWith("mlp_p"));
  const index = { layer: Number(unit[1]), [neuron ? "neuron" : "head"]: Number(unit[3]) };
  const meant = neuron ? activation || "mlp_post" : (unit[4] || activation || "z").toLowerCase();
  const rows = meant === "pattern" ? {} : { pos };
  return { activation: meant, ...index, ...rows, source };
}

function resolveEdge(config, one, source, n) {
  const wrong = ["layer", "head", "neuron", "dest_pos", "src_pos"].find((axis) => some(one[axis]));
  if (wrong) throw new Error(`an edge has no ${wrong}; expected edge, pos and source`);
  const [from, to, more] = String(one.edge || "").split("->").map((word) => word.trim());
  const sender = nodeOf(config, from);
  const ends = to === undefined || more !== undefined ? null : receiversOf(config, to);
  if (!sender || !ends) throw new Error(`'${one.edge}' is no edge of this model; expected such as '0.1->1.0.k' or 'embed->mlp0'`);
  if (!ends.every((end) => comesBefore(sender, end))) {
    throw new Error(`'${one.edge}' is no edge: a receiver reads what was written before it`);
  }
  const edit = { activation: "edge", sender, receivers: ends, layers: [ends[0].layer], rows: positions("pos", one.pos, n), source };
  if (source.add instanceof Array && source.add.length !== config.d_model) {
    throw new Error(`the direction has ${source.add.length} numbers; expected ${config.d_model}, the width of the stream`);
  }
  return edit;
}

function nodeOf(config, word) {
  if (word === "embed") return { kind: "embed", layer: -1, name: "embed" };
  const mlp = /^mlp(\d+)$/.exec(word);
  if (mlp && Number(mlp[1]) < config.n_layers) return { kind: "mlp", layer: Number(mlp[1]), name: word };
  const head = /^(\d+)\.(\d+)$/.exec(word);
  if (!head || Number(head[1]) >= config.n_layers || Number(head[2]) >= config.n_heads) return null;
  return { kind: "head", layer: Number(head[1]), head: Number(head[2]), name: word };
}

function receiversOf(config, word) {
  if (word === "logits") return [{ kind: "logits", layer: config.n_layers }];
  const part = /^(\d+\.\d+)\.([qkv])$/.exec(word);
  const node = nodeOf(config, part ? part[1] : word);
  if (!node || node.kind === "embed") return null;
  if (node.kind === "mlp") return [node];
  return (part ? [part[2]] : ["q", "k", "v"]).map((letter) => ({ ...node, part: letter }));
}

function comesBefore(sender, receiver) {
  if (sender.layer < receiver.layer) return true;
  return sender.layer === receiver.layer && sender.kind === "head" && receiver.kind === "mlp";
}

/* {kind, scale, add} of a source */
function sourceOf(source) {
  if (["zero", "mean", "other"].includes(source)) return { kind: source };
  if (source === "resample") throw new Error("the page does not draw other examples: 'resample' is Python's alone; take 'mean' or 'other'");
  const scale = source && source.scale === undefined ? 1 : source && source.scale;
  const known = source && typeof source === "object" && Object.keys(source).every((key) => key === "add" || key === "scale");
  if (!known || !Number.isFinite(scale)) {
    throw new Error(`source is ${JSON.stringify(source)}; expected 'zero', 'mean', 'other', {"scale": x} or {"add": direction, "scale": x}`);
  }
  return source.add === undefined ? { kind: "scale", scale } : { kind: "add", scale, add: source.add };
}

/* A direction must have the width of what it is added to. */
function checkDirection(config, edit) {
  if (!(edit.source.add instanceof Array)) return;
  const { count, width } = unitsOf(config, edit.activation);
  const neurons = SITES[edit.activation].unit === "neuron";
  const expected = edit.activation === "pattern" ? 1 : neurons ? (edit.units || range(count)).length : width;
  if (edit.source.add.length !== expected) {
    throw new Error(`the direction has ${edit.source.add.length} numbers; expected ${expected}, the width of ${edit.activation}`);
  }
}

function some(value) {
  return value !== undefined && value !== null;
}

export function range(n) {
  return Array.from({ length: n }, (_, i) => i);
}

/* whole numbers below `size`, in the order given; null for all */
function indices(axis, value, size) {
  if (!some(value)) return null;
  const list = Array.isArray(value) ? value : [value];
  const wrong = list.find((i) => !Number.isInteger(i) || i < 0 || i >= size);
  if (wrong !== undefined || !list.length) throw new Error(`there is no ${axis} ${wrong} in this model; expected 0 to ${size - 1}`);
  return list;
}

/* positions counted from the start, ascending, each once; null for all */
function positions(axis, value, n) {
  if (!some(value)) return null;
  const list = Array.isArray(value) ? value : [value];
  const wrong = list.find((i) => !Number.isInteger(i) || i < -n || i >= n);
  if (wrong !== undefined || !list.length) {
    const name = axis === "pos" ? "position" : axis;
    throw new Error(`there is no ${name} ${wrong} in ${n} tokens; expected ${-n} to ${n - 1}`);
  }
  return [...new Set(list.map((i) => (i < 0 ? i + n : i)))].sort((a, b) => a - b);
}
