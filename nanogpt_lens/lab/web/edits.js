/* Edits at work: numbers of an activation replaced in the engine's memory. */

/* Replace what an edit names in an activation of rows x units x width.
   `view` is {at, stride, first, end}: where row `first` lies, from one row to the next, and the rows that are there. */
export function applyEdit(f, edit, view, units, put) {
  const { count, width } = units;
  const offset = edit.offset || 0; // rows that were cropped away before the first
  const listed = edit.units || null;
  const n = listed ? listed.length : count;
  for (const row of edit.rows || span(view.first, view.end)) {
    if (row < view.first || row >= view.end) continue;
    const start = view.at + (row - view.first) * view.stride;
    for (let u = 0; u < n; u++) {
      const unit = listed ? listed[u] : u;
      replace(f, start + unit * width, width, edit.source, put, ((row + offset) * count + unit) * width, width === 1 ? u : 0, unit * width);
    }
  }
}

/* One unit at one row: `at` in the memory, `place` in another run's values, `unit` in a mean, `d` in a direction. */
function replace(f, at, width, source, put, place, d, unit) {
  for (let i = 0; i < width; i++) {
    if (source.kind === "zero") f[at + i] = 0;
    else if (source.kind === "other") f[at + i] = put[place + i];
    else if (source.kind === "mean") f[at + i] = put[unit + i];
    else if (source.kind === "scale") f[at + i] *= source.scale;
    else f[at + i] += source.scale * put[d + i];
  }
}

/* The same for one head's pattern of rows x columns; `put` is the whole [head, dest, src] with `size` columns. */
export function applyToPattern(f, edit, view, head, put, size) {
  if (edit.units && !edit.units.includes(head)) return;
  const offset = edit.offset || 0;
  const { kind, scale } = edit.source;
  for (const row of edit.rows || span(view.first, view.end)) {
    if (row < view.first || row >= view.end) continue;
    for (const column of edit.columns || span(0, view.columns)) {
      const at = view.at + (row - view.first) * view.stride + column;
      if (kind === "zero") f[at] = 0;
      else if (kind === "scale") f[at] *= scale;
      else if (kind === "add") f[at] += scale * put[0];
      else f[at] = put[(head * size + row + offset) * size + column + offset];
    }
  }
}

function span(first, end) {
  return Array.from({ length: end - first }, (_, i) => first + i);
}

/* The first row that some edits change; rows before it are as they were. */
export function firstRow(edits, n) {
  return edits.reduce((least, edit) => Math.min(least, edit.rows ? edit.rows[0] : 0), n);
}

/* The first layer that some edits change. */
export function firstLayer(edits, nLayers) {
  return edits.reduce((least, edit) => Math.min(least, ...edit.layers), nLayers);
}

/* A plan: by layer the edits of each activation, and the edges into each layer. */
export function planOf(edits) {
  const plan = { sites: new Map(), edges: new Map(), edits };
  for (const edit of edits) {
    for (const layer of edit.layers) {
      const key = edit.activation === "edge" ? layer : `${edit.activation}.${layer}`;
      const map = edit.activation === "edge" ? plan.edges : plan.sites;
      map.set(key, [...(map.get(key) || []), edit]);
    }
  }
  return plan;
}
