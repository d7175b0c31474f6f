/* What the page is about, as plain JSON: prompts, changes, what is read and looked at. It is versioned, goes into a
   link or a file, and is checked when it comes back, because anybody can write a link. */
import { checkedIntervention, isIndex, isPlainObject } from "./checks.js";

export const STATE_VERSION = 1;
export const TABS = ["attention", "lens", "neurons", "edges", "sweeps"];

const WORDS = {
  active: ["A", "B"], tab: TABS, shows: ["effect", "contribution"], colours: ["surprise", "effect", "plain"],
  pattern: ["trained", "changed", "difference"], theme: ["auto", "light", "dark"], lens: ["likeliest", "answer"],
};
const FLAGS = ["compare", "picked", "wide", "toured"];
const MOST_CHANGES = 200;

/* The state on first opening: the first finding's prompt, or the beginning of the reference. */
export function firstState(payload) {
  const prompt = payload.findings?.prompts?.[0];
  const reference = (payload.reference?.[0] ?? [0]).slice(0, Math.min(16, payload.config.n_ctx));
  return {
    version: STATE_VERSION,
    tokens: prompt?.tokens?.slice() ?? reference,
    other: prompt?.other?.slice() ?? null,
    answer: prompt?.answer ?? null, wrong: prompt?.wrong ?? null, picked: false,
    read: null,
    stacks: { A: [], B: [] }, active: "A", compare: false,
    chosen: firstPart(payload), tab: "attention", pattern: "changed", lens: "likeliest",
    shows: "effect", colours: "surprise", wide: false,
    sample: { n: 60, temperature: 0.8, top_k: null, seed: 1 },
    theme: "auto", toured: false,
  };
}

function firstPart(payload) {
  const named = Object.entries(payload.findings?.heads ?? {}).sort((a, b) => (b[1].score ?? 0) - (a[1].score ?? 0));
  const [layer, head] = named.length ? named[0][0].split(".").map(Number) : [payload.config.n_layers - 1, 0];
  const fits = isIndex(layer, payload.config.n_layers) && isIndex(head, payload.config.n_heads);
  return fits ? { layer, head } : { layer: 0, head: 0 };
}

/* A state from outside as {state, problem}: all of it or, with a sentence, nothing. */
export function readState(payload, data) {
  try {
    if (!isPlainObject(data)) return refused("it is no JSON object");
    if (data.version !== STATE_VERSION) return refused("another version of the page wrote it");
    return checkedState(payload, data);
  } catch {
    return refused("it cannot be read");
  }
}

function refused(why) {
  return { state: null, problem: `A saved state was ignored: ${why}.` };
}

function checkedState(payload, data) {
  const { config } = payload;
  const state = firstState(payload);
  const isText = (ids) => Array.isArray(ids) && ids.length > 0 && ids.length <= config.n_ctx
    && ids.every((id) => isIndex(id, config.d_vocab));
  if (!isText(data.tokens) || (data.other != null && !isText(data.other))) return refused("its prompts do not fit this model");
  Object.assign(state, { tokens: data.tokens.slice(), other: data.other?.slice() ?? null });
  for (const name of ["answer", "wrong"]) {
    if (data[name] != null && !isIndex(data[name], config.d_vocab)) return refused(`its ${name} is no token of this model`);
    state[name] = data[name] ?? null;
  }
  if (data.read != null && !isIndex(data.read, data.tokens.length)) return refused("it reads a position that its prompt does not have");
  state.read = data.read ?? null;
  for (const name of ["A", "B"]) {
    const stack = checkedStack(payload, data.stacks?.[name] ?? []);
    if (!stack) return refused("one of its changes does not fit this model");
    state.stacks[name] = stack;
  }
  for (const [name, known] of Object.entries(WORDS)) if (known.includes(data[name])) state[name] = data[name];
  for (const name of FLAGS) if (typeof data[name] === "boolean") state[name] = data[name];
  state.chosen = checkedPart(config, data.chosen) ?? state.chosen;
  state.sample = checkedSample(data.sample, state.sample);
  return { state, problem: null };
}

function checkedStack(payload, items) {
  if (!Array.isArray(items) || items.length > MOST_CHANGES) return null;
  const clean = items.map((item) => {
    const intervention = isPlainObject(item) ? checkedIntervention(payload, item.intervention) : null;
    return intervention && { on: item.on !== false, intervention };
  });
  return clean.includes(null) ? null : clean;
}

function checkedPart(config, part) {
  if (!isPlainObject(part) || !isIndex(part.layer, config.n_layers)) return null;
  if (part.mlp === true) return { layer: part.layer, mlp: true };
  return isIndex(part.head, config.n_heads) ? { layer: part.layer, head: part.head } : null;
}

/* Sampling options within bounds; what is missing or wrong stays as it was. */
export function checkedSample(sample, before) {
  const given = isPlainObject(sample) ? sample : {};
  const within = (value, least, most, otherwise) => (Number.isFinite(value) ? Math.min(Math.max(value, least), most) : otherwise);
  return {
    n: Math.round(within(given.n, 1, 400, before.n)),
    temperature: within(given.temperature, 0.05, 5, before.temperature),
    top_k: given.top_k === null || given.top_k === undefined ? null : Math.round(within(given.top_k, 1, 1e6, 10)),
    seed: Math.round(within(given.seed, 0, 2 ** 31 - 1, before.seed)),
  };
}

/* The state as a fragment of an address. */
export function fragmentOf(state) {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return "lab=" + btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/* What a fragment holds, as {data, problem}; both null where it is not about the page. */
export function readFragment(fragment) {
  const found = /(?:^#?|&)lab=([A-Za-z0-9_-]*)$/.exec(fragment);
  if (!found) return /(?:^#?|&)lab=/.test(fragment) ? { data: null, problem: refused("the link is damaged").problem } : { data: null, problem: null };
  try {
    const text = atob(found[1].replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
    return { data: JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)), problem: null };
  } catch {
    return { data: null, problem: refused("the link is damaged").problem };
  }
}
