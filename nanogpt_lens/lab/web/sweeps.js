/* What the sweeps measure: the rows and columns of a table, and the intervention of each cell. Pure functions. */
import { tokenLabel } from "./tokens.js";

const SOURCE_CHOICES = { zero: "off", mean: "average", other: "other prompt" };

/* The sources that there are, as [value, text]. */
export function sourcesOf({ mean, other }) {
  return Object.entries(SOURCE_CHOICES).filter(([source]) => source === "zero" || (source === "mean" ? mean : other));
}

const indicesTo = (n) => Array.from({ length: n }, (_, i) => i);

/* What can be a receiver in a layer: q, k and v of its heads, its MLP, after the last layer the logits. */
function receiversIn(config, layer) {
  const heads = indicesTo(config.n_heads).flatMap((head) => ["q", "k", "v"].map((part) => ({ name: `${layer}.${head}.${part}`, mlp: false })));
  const ends = [...heads, { name: `mlp${layer}`, mlp: true }];
  return layer === config.n_layers - 1 ? [...ends, { name: "logits", mlp: true, last: true }] : ends;
}

function sendersTo(config, layer) {
  const senders = [{ name: "embed", layer: -1 }];
  for (let at = 0; at <= layer; at++) {
    for (const head of indicesTo(config.n_heads)) senders.push({ name: `${at}.${head}`, layer: at });
    senders.push({ name: `mlp${at}`, layer: at, mlp: true });
  }
  return senders;
}

function reads(receiver, sender, layer) {
  if (receiver.last || sender.layer < layer) return true;
  return sender.layer === layer && receiver.mlp && !sender.mlp;
}

/* A table of edges: what each receiver of a layer reads of each sender. */
export function edgeTable(config, layer, source) {
  const receivers = receiversIn(config, layer);
  const last = receivers.some((receiver) => receiver.last);
  const senders = sendersTo(config, layer).filter((sender) => sender.layer < layer || last || !sender.mlp);
  const cells = senders.map((sender) => receivers.map((receiver) => (
    reads(receiver, sender, layer) ? { activation: "edge", edge: `${sender.name}->${receiver.name}`, source } : null)));
  return { rows: senders.map(({ name }) => name), columns: receivers.map(({ name }) => name), cells };
}

/* Every head and MLP. */
function partTable({ config }, state, source) {
  const rows = indicesTo(config.n_layers).reverse();
  const cells = rows.map((layer) => [
    ...indicesTo(config.n_heads).map((head) => ({ activation: "z", layer, head, source })),
    { activation: "mlp_out", layer, source },
  ]);
  return { rows: rows.map(String), columns: [...indicesTo(config.n_heads).map(String), "MLP"], cells };
}

/* A stream at every layer and position. */
function streamTable(payload, state, source) {
  const rows = indicesTo(payload.config.n_layers).reverse();
  const cells = rows.map((layer) => state.tokens.map((_, pos) => ({ activation: "resid_post", layer, pos, source })));
  return { rows: rows.map(String), columns: state.tokens.map((id) => tokenLabel(payload, id, 4)), cells };
}

/* One part at every position. */
function positionTable(payload, state, source) {
  const { layer, head, mlp } = state.chosen;
  const cells = [state.tokens.map((_, pos) => (mlp ? { activation: "mlp_out", layer, pos, source } : { activation: "z", layer, head, pos, source }))];
  return { rows: [mlp ? `mlp${layer}` : `${layer}.${head}`], columns: state.tokens.map((id) => tokenLabel(payload, id, 4)), cells };
}

/* The layer's heads at every position. */
function headsByPosition(payload, state, source) {
  const { layer } = state.chosen;
  const heads = indicesTo(payload.config.n_heads);
  const cells = heads.map((head) => state.tokens.map((_, pos) => ({ activation: "z", layer, head, pos, source })));
  return { rows: heads.map((head) => `${layer}.${head}`), columns: state.tokens.map((id) => tokenLabel(payload, id, 4)), cells };
}

/* The sweeps: a name, what it says, and the table it makes. */
export const SWEEPS = {
  parts: { text: "every head and MLP", make: partTable },
  streams: { text: "the stream after every layer, at every position", make: streamTable },
  positions: { text: "the chosen part at every position", make: positionTable },
  heads: { text: "the chosen layer's heads at every position", make: headsByPosition },
};

/* The candidates of a table, and where each stands. */
export function candidatesOf({ cells }) {
  const candidates = [], places = [];
  cells.forEach((line, row) => line.forEach((cell, column) => {
    if (!cell) return;
    candidates.push([cell]);
    places.push([row, column]);
  }));
  return { candidates, places };
}
