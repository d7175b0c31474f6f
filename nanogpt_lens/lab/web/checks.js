/* Whether an intervention that comes from outside (a link, a saved file, a form) is one, and fits the model. */

export const SITE_AXES = {
  resid_pre: ["pos"], resid_mid: ["pos"], resid_post: ["pos"], attn_out: ["pos"], mlp_out: ["pos"],
  z: ["head", "pos"], q: ["head", "pos"], k: ["head", "pos"], v: ["head", "pos"],
  pattern: ["head", "dest_pos", "src_pos"], mlp_post: ["neuron", "pos"], mlp_pre: ["neuron", "pos"],
};

/* The activations that are a stream of d_model numbers, to which a direction can be added. */
export const STREAMS = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"];

/* Where the two prompts' streams can be compared. */
export const DIFFERENCES = ["resid_pre", "resid_mid", "resid_post"];

const MOST_PLACES = 4096;

export function isPlainObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isIndex(value, size) {
  return Number.isInteger(value) && value >= 0 && value < size;
}

function sizeOfAxis(config, axis) {
  return { layer: config.n_layers, head: config.n_heads, neuron: config.d_mlp }[axis] ?? config.n_ctx;
}

function isPlace(config, axis, value) {
  if (value === null || value === undefined) return true;
  const size = sizeOfAxis(config, axis);
  const fits = (one) => Number.isInteger(one) && one < size && one >= (axis.endsWith("pos") ? -size : 0);
  return Array.isArray(value) ? value.length > 0 && value.length <= MOST_PLACES && value.every(fits) : fits(value);
}

function isNode(config, text, sends) {
  if (text === "embed") return sends;
  if (text === "logits") return !sends;
  const mlp = /^mlp(\d{1,4})$/.exec(text);
  if (mlp) return Number(mlp[1]) < config.n_layers;
  const head = /^(\d{1,4})\.(\d{1,4})(\.[qkv])?$/.exec(text);
  return head !== null && Number(head[1]) < config.n_layers && Number(head[2]) < config.n_heads && !(sends && head[3]);
}

function isEdge(config, text) {
  const ends = typeof text === "string" ? text.split("->") : [];
  return ends.length === 2 && isNode(config, ends[0].trim(), true) && isNode(config, ends[1].trim(), false);
}

function isDirection(payload, value, activation) {
  const config = payload.config;
  if (Array.isArray(value)) return value.length > 0 && value.length <= 65536 && value.every(Number.isFinite);
  if (!isPlainObject(value) || Object.keys(value).length !== 1 || !STREAMS.includes(activation)) return false;
  if ("token" in value) return isIndex(value.token, config.d_vocab);
  if ("stored" in value) return typeof value.stored === "string" && Object.hasOwn(payload.directions ?? {}, value.stored);
  if ("neuron" in value) {
    return Array.isArray(value.neuron) && value.neuron.length === 2
      && isIndex(value.neuron[0], config.n_layers) && isIndex(value.neuron[1], config.d_mlp);
  }
  const at = value.difference;
  return isPlainObject(at) && DIFFERENCES.includes(at.activation) && isIndex(at.layer, config.n_layers)
    && Number.isInteger(at.pos) && at.pos >= -config.n_ctx && at.pos < config.n_ctx
    && Object.keys(at).every((key) => ["activation", "layer", "pos"].includes(key));
}

function isSource(payload, source, activation) {
  if (typeof source === "string") return ["zero", "mean", "other"].includes(source);
  if (!isPlainObject(source)) return false;
  const keys = Object.keys(source);
  if (!keys.length || keys.some((key) => key !== "add" && key !== "scale")) return false;
  if ("scale" in source && !Number.isFinite(source.scale)) return false;
  return !("add" in source) || isDirection(payload, source.add, activation);
}

/* A clean copy of an intervention that fits the model; null where it is none. */
export function checkedIntervention(payload, one) {
  if (!isPlainObject(one)) return null;
  const edge = one.activation === "edge";
  if (!edge && !Object.hasOwn(SITE_AXES, one.activation)) return null;
  const axes = edge ? ["pos"] : ["layer", ...SITE_AXES[one.activation]];
  const clean = { activation: one.activation };
  if (edge) {
    if (!isEdge(payload.config, one.edge)) return null;
    clean.edge = one.edge;
  }
  for (const key of Object.keys(one)) {
    if (["activation", "source"].includes(key) || (edge && key === "edge")) continue;
    if (!axes.includes(key) || !isPlace(payload.config, key, one[key])) return null;
    if (one[key] !== null && one[key] !== undefined) clean[key] = one[key];
  }
  const source = one.source ?? "zero";
  if (!isSource(payload, source, one.activation)) return null;
  return { ...clean, source: typeof source === "string" ? source : JSON.parse(JSON.stringify(source)) };
}
