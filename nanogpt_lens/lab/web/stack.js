/* What is done to the stack of changes: a part's state in the cycle, adopting, moving. Pure functions. */

/* The active stack of a state. */
export function stackOf(state) {
  return state.stacks[state.active];
}

/* A state's fields with another active stack. */
export function withStack(state, items) {
  return { stacks: { ...state.stacks, [state.active]: items } };
}

/* The interventions that are on. */
export function interventionsOf(items) {
  return items.filter((item) => item.on).map((item) => item.intervention);
}

/* The intervention that switches a part of the grid off. */
export function partIntervention(part, source = "zero") {
  return part.mlp ? { activation: "mlp_out", layer: part.layer, source } : { activation: "z", layer: part.layer, head: part.head, source };
}

/* "2.3", "mlp2" */
export function partName(part) {
  return part.mlp ? `mlp${part.layer}` : `${part.layer}.${part.head}`;
}

/* Where in a stack the whole part is changed; -1 where it is not. */
export function partIndex(items, part) {
  const activation = part.mlp ? "mlp_out" : "z";
  return items.findIndex(({ intervention: one }) =>
    one.activation === activation && one.layer === part.layer && (part.mlp || one.head === part.head));
}

/* "live", "off", "mean", "other", "scaled" or "more" */
export function sourceWord(source) {
  if (source === "zero") return "off";
  if (typeof source === "string") return source;
  return "add" in source ? "more" : "scaled";
}

/* The next state of a part: live, off, average, other prompt, twice, live again. */
export function cycledStack(items, part, { mean, other }) {
  const at = partIndex(items, part);
  if (at < 0) return [...items, { on: true, intervention: partIntervention(part) }];
  const cycle = ["zero", ...(mean ? ["mean"] : []), ...(other ? ["other"] : []), { scale: 2 }];
  const before = sourceWord(items[at].intervention.source);
  const step = items[at].on ? cycle.findIndex((source) => sourceWord(source) === before) + 1 : 0;
  if (step >= cycle.length || before === "more") return items.filter((_, i) => i !== at);
  return items.map((item, i) => (i === at ? { on: true, intervention: { ...item.intervention, source: cycle[step] } } : item));
}

/* Whether two interventions are at the same place. */
function samePlace(a, b) {
  const place = ({ source, ...rest }) => JSON.stringify(Object.entries(rest).sort());
  return place(a) === place(b);
}

/* The stack with an intervention in it, once: one at the same place is replaced. */
export function adoptedStack(items, intervention) {
  const at = items.findIndex((item) => samePlace(item.intervention, intervention));
  if (at < 0) return [...items, { on: true, intervention }];
  return items.map((item, i) => (i === at ? { on: true, intervention } : item));
}

/* The stack with one change moved up or down. */
export function movedStack(items, at, by) {
  const to = at + by;
  if (to < 0 || to >= items.length) return items;
  const moved = items.slice();
  [moved[at], moved[to]] = [moved[to], moved[at]];
  return moved;
}
