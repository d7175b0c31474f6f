/* Interventions and what they do, in words. */
import { largestOf, percentText, signedNumber } from "./numbers.js";
import { tokenInWords, tokenLabel } from "./tokens.js";

const STREAM_WORDS = {
  resid_pre: "the stream before layer", resid_mid: "the stream in the middle of layer", resid_post: "the stream after layer",
  attn_out: "the attention of layer", mlp_out: "MLP",
};
const PART_WORDS = { q: "the queries of", k: "the keys of", v: "the values of", z: "", pattern: "the attention of" };

const listWords = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`);
const asList = (places) => (places === null || places === undefined ? [] : Array.isArray(places) ? places : [places]);

function headWords(one) {
  const layers = asList(one.layer), heads = asList(one.head);
  if (!layers.length) return heads.length ? `head ${listWords(heads)} of every layer` : "all heads";
  if (!heads.length) return `all heads of layer ${listWords(layers)}`;
  const names = layers.flatMap((layer) => heads.map((head) => `${layer}.${head}`));
  return `${names.length > 1 ? "heads" : "head"} ${listWords(names.slice(0, 8))}`;
}

/* The place of an intervention: "head 2.3", "neuron 1.33", "the stream after layer 1". */
export function placeInWords(one) {
  if (one.activation === "edge") return `the edge ${one.edge.replace("->", " → ")}`;
  if (one.activation in PART_WORDS) return `${PART_WORDS[one.activation]} ${headWords(one)}`.trim();
  const layers = asList(one.layer), neurons = asList(one.neuron);
  if (one.activation === "mlp_post" || one.activation === "mlp_pre") {
    const before = one.activation === "mlp_pre" ? " before its activation function" : "";
    if (!neurons.length) return `all neurons of ${layers.length ? `layer ${listWords(layers)}` : "every layer"}${before}`;
    const names = (layers.length ? layers : ["every layer"]).flatMap((layer) => neurons.map((neuron) => `${layer}.${neuron}`));
    return `${names.length > 1 ? "neurons" : "neuron"} ${listWords(names.slice(0, 8))}${names.length > 8 ? " …" : ""}${before}`;
  }
  const where = layers.length ? listWords(layers) : "by layer, all of them";
  return `${STREAM_WORDS[one.activation]} ${where}`;
}

function directionInWords(payload, add) {
  if (Array.isArray(add)) return add.length === 1 ? String(add[0]) : "a direction";
  if ("token" in add) return `the direction of ${tokenInWords(payload, add.token)}`;
  if ("neuron" in add) return `what neuron ${add.neuron.join(".")} writes`;
  if ("stored" in add) return `“${add.stored}”`;
  return `the other prompt's difference at ${placeInWords(add.difference)}`;
}

function sourceInWords(payload, source) {
  if (source === "zero") return "off";
  if (source === "mean") return "at its average";
  if (source === "other") return "from the other prompt";
  const scale = source.scale ?? 1;
  if (!("add" in source)) return `× ${scale}`;
  const number = Array.isArray(source.add) && source.add.length === 1;
  return number ? `+ ${scale * source.add[0]}` : `+ ${scale} × ${directionInWords(payload, source.add)}`;
}

/* A position of the prompt: "the last “e”", "“C” (6)". */
export function positionInWords(payload, tokens, pos) {
  const at = pos < 0 ? tokens.length + pos : pos;
  const token = tokens[at];
  return token === undefined ? `position ${pos}` : `“${tokenLabel(payload, token, 8)}” (${at})`;
}

function positionsInWords(payload, tokens, one) {
  const named = (places) => listWords(asList(places).slice(0, 4).map((pos) => positionInWords(payload, tokens, pos)));
  if (one.activation === "pattern") {
    const dest = one.dest_pos ?? null, src = one.src_pos ?? null;
    if (dest === null && src === null) return "all of it";
    return `${dest === null ? "every row" : `row ${named(dest)}`}, ${src === null ? "all of it" : `at ${named(src)}`}`;
  }
  return (one.pos ?? null) === null ? "all positions" : `at ${named(one.pos)}`;
}

/* "head 2.3 off" */
export function changeInWords(payload, one) {
  return `${placeInWords(one)} ${sourceInWords(payload, one.source ?? "zero")}`;
}

/* "head 2.3 off, all positions" */
export function interventionInWords(payload, tokens, one) {
  return `${changeInWords(payload, one)}, ${positionsInWords(payload, tokens, one)}`;
}

/* The beginning of the headline: "Without head 2.3", "With your 3 changes". */
export function setInWords(payload, interventions) {
  const whole = (one) => (one.source ?? "zero") === "zero" && one.activation !== "edge";
  if (interventions.length === 1) {
    const [one] = interventions;
    const part = (one.pos ?? one.dest_pos ?? one.src_pos ?? null) !== null ? " at one place" : "";
    return whole(one) ? `Without ${placeInWords(one)}${part}` : `With ${changeInWords(payload, one)}${part}`;
  }
  const everywhere = interventions.every((one) => whole(one) && (one.pos ?? one.dest_pos ?? one.src_pos ?? null) === null);
  if (interventions.length <= 3 && everywhere) return `Without ${listWords(interventions.map(placeInWords))}`;
  return `With your ${interventions.length} changes`;
}

function movesInWords(payload, before, after, answer) {
  const sizes = Float64Array.from(before, (share, id) => (id === answer ? 0 : Math.abs(after[id] - share)));
  const moves = largestOf(sizes, 2).map((id) => ({ id, points: Math.round(100 * (after[id] - before[id])) })).filter(({ points }) => points !== 0);
  const [first, second] = moves;
  const names = moves.map(({ id }) => tokenInWords(payload, id));
  const points = (size) => `${size} ${size === 1 ? "point" : "points"}`;
  const verb = (move, many) => (move.points > 0 ? "gain" : "lose") + (many ? "" : "s");
  if (!first) return "";
  const one = `${names[0]} ${verb(first)} ${points(Math.abs(first.points))}`;
  if (!second) return one;
  if (first.points === second.points) return `${listWords(names)} ${verb(first, true)} ${points(Math.abs(first.points))} each`;
  if (first.points * second.points > 0) return `${one}, ${names[1]} ${Math.abs(second.points)}`;
  return `${one}, ${names[1]} ${verb(second)} ${Math.abs(second.points)}`;
}

/* The headline as pieces of text; a piece with `tone` is a number: 1 where it is more, -1 where less, 0 neither. */
export function headlineOf(payload, { interventions, before, after, answer, lead }) {
  const name = tokenInWords(payload, answer);
  const was = percentText(before[answer]), is = percentText(after[answer]);
  if (!interventions.length) return expectationOf(payload, before, answer);
  const pieces = [{ text: `${setInWords(payload, interventions)}, ${name} ` }];
  const tone = Math.sign(after[answer] - before[answer]);
  if (was === is) pieces.push({ text: "stays at " }, { text: is, tone: 0 });
  else pieces.push({ text: tone < 0 ? "falls from " : "rises from " }, { text: was, tone }, { text: " to " }, { text: is, tone });
  if (lead) {
    const [from, to] = [lead.before, lead.after].map((value) => signedNumber(value));
    pieces.push({ text: `; its lead over ${tokenInWords(payload, lead.wrong)} goes from ${from} to ${to}` });
  } else {
    const moves = movesInWords(payload, before, after, answer);
    if (moves) pieces.push({ text: `; ${moves}` });
  }
  return [...pieces, { text: "." }];
}

function expectationOf(payload, before, answer) {
  const [best, second] = largestOf(before, 2);
  const pieces = [{ text: `The model expects ${tokenInWords(payload, best)} here: ` }, { text: percentText(before[best]), tone: 0 }];
  const next = answer !== best ? answer : second;
  if (before.length > 1) pieces.push({ text: `; ${tokenInWords(payload, next)} has ` }, { text: percentText(before[next]), tone: 0 });
  return [...pieces, { text: "." }];
}
