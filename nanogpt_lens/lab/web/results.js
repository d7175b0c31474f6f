/* What the page knows about its state: it asks the engine whenever the state changes, the cheap things first.
   `results.shown` is one consistent picture (prompt, run as trained, run with the changes); the rest are tasks. */
import { hookName } from "./sites.js";
import { largestOf, metricOfRow, probabilitiesOf, rowOf } from "./numbers.js";
import { interventionsOf, partIntervention, stackOf } from "./stack.js";
import { createTask, sweepInParts } from "./task.js";

const keyOf = (...parts) => JSON.stringify(parts);

/* Whether interventions take something from the other prompt. */
export function needsOther(interventions) {
  return interventions.some(({ source }) => source === "other" || source?.add?.difference !== undefined);
}

/* All parts of the grid, from the last layer to the first. */
export function partsOf(config) {
  const parts = [];
  for (let layer = config.n_layers - 1; layer >= 0; layer--) {
    for (let head = 0; head < config.n_heads; head++) parts.push({ layer, head });
    parts.push({ layer, mlp: true });
  }
  return parts;
}

/* What is asked: the prompt, the position that is read, the changes that are on. */
export function questionOf(state) {
  const [A, B] = [interventionsOf(state.stacks.A), interventionsOf(state.stacks.B)];
  return { tokens: state.tokens, other: state.other, pos: state.read ?? state.tokens.length - 1, A, B, now: state.active === "A" ? A : B };
}

/* One request to the engine about a set of interventions. */
export function requestOf(question, interventions, more) {
  return { tokens: question.tokens, interventions, other: needsOther(interventions) ? question.other : null, ...more };
}

function hooksOf(state) {
  if (state.tab === "attention" && !state.chosen.mlp) return [hookName("pattern", state.chosen.layer)];
  return state.tab === "neurons" ? [hookName("mlp_post", state.chosen.layer)] : [];
}

/* createResults({payload, store, changed}) -> results: `shown`, `problem`, the tasks, refresh(); `lab` is set from outside. */
export function createResults({ payload, store, changed }) {
  const results = { shown: null, problem: null, lab: null, changed, spoken: { base: [], now: [] } };
  const later = () => { results.refresh(); changed(); };
  for (const name of ["base", "A", "B", "grid", "set", "lensBase", "lensNow", "sampleBase", "sampleNow"]) results[name] = createTask(later);
  for (const name of ["edges", "sweeps", "neurons"]) results[name] = createTask(changed);
  results.running = (state) => results.base.busy || results[state.active].busy;
  results.refresh = () => {
    const state = store.get(), question = questionOf(state);
    wantRuns(results, state, question);
    if (!publish(results, payload.config, state, question)) return;
    wantGrid(results, payload.config, state);
    wantSet(results);
    wantLens(results);
    wantSamples(results, state);
  };
  return results;
}

function wantRuns(results, state, question) {
  const hooks = hooksOf(state);
  const plain = { tokens: question.tokens, interventions: [], other: null, activations: hooks, channel: "base" };
  results.base.want(keyOf(question.tokens, hooks), () => results.lab.run(plain));
  for (const name of ["A", "B"]) {
    if (!question[name].length || (name !== state.active && !state.compare)) continue;
    const request = requestOf(question, question[name], { activations: hooks, channel: `run ${name}` });
    results[name].want(keyOf(request.tokens, request.other, request.interventions, hooks), () => results.lab.run(request));
  }
}

/* The run of one stack: the run as trained where nothing is changed, null where it is not there yet. */
function runOf(results, question, name) {
  if (!question[name].length) return results.base.value;
  return results[name].fresh() ? results[name].value : null;
}

/* Puts what is there into `results.shown` once it is all of one question; whether it is. */
function publish(results, config, state, question) {
  results.problem = results.base.problem || (question.now.length ? results[state.active].problem : null);
  if (!results.base.fresh()) return false;
  const base = results.base.value, now = runOf(results, question, state.active);
  const idle = state.active === "A" ? "B" : "A";
  const beside = state.compare ? runOf(results, question, idle) : null;
  if (!now || (state.compare && !beside)) return false;
  const about = [base, now, beside, question.pos, state.answer, state.wrong, state.active, keyOf(question.other, question.A, question.B)];
  if (results.shown?.about.every((one, i) => one === about[i])) return true; // nothing is new
  const rows = [base, now, beside].map((run) => run && rowOf(run.logits, question.pos));
  const known = config.n_tokens ?? config.d_vocab; // a padded vocabulary has more
  const [before, after, besides] = rows.map((row) => row && probabilitiesOf(row).subarray(0, known));
  const answer = state.answer ?? largestOf(before, 1)[0];
  const wrong = state.wrong === answer ? null : state.wrong;
  const metrics = rows.map((row) => row && metricOfRow(row, answer, wrong));
  const metric = { pos: question.pos, answer, wrong };
  results.shown = { ...question, about, base, run: now, idle, answer, wrong, before, after, besides, metrics, metric };
  return true;
}

function wantGrid(results, config, state) {
  const { shown, lab } = results;
  const key = keyOf(state.shows, shown.tokens, shown.other, shown.now, shown.metric);
  const channel = "grid";
  if (state.shows === "contribution") {
    const request = requestOf(shown, shown.now, { metric: shown.metric, channel });
    results.grid.want(key, async () => {
      const { heads, mlps } = await lab.contributions(request);
      return { shows: "contribution", values: partsOf(config).map((part) => (part.mlp ? mlps[part.layer] : heads[part.layer][part.head])) };
    }, 90);
    return;
  }
  const candidates = partsOf(config).map((part) => [partIntervention(part)]);
  const request = requestOf(shown, shown.now, { candidates, metric: shown.metric, channel });
  const wrap = (values) => ({ shows: "effect", values });
  results.grid.want(key, async ({ alive, show }) => {
    const size = candidates.length <= 24 ? candidates.length : config.n_heads + 1;
    return wrap(await sweepInParts(lab, request, { alive, show: (values, part) => part < 1 && show(wrap(values), part) }, size));
  }, 90);
}

/* Each change alone, and the whole without each: what one does, and whether effects add up. */
function wantSet(results) {
  const { shown, lab } = results;
  const all = shown.now, n = all.length;
  if (!n) return;
  const without = all.map((_, i) => all.filter((_, j) => j !== i));
  const candidates = [all, ...all.map((one) => [one]), ...(n > 1 ? without : [])];
  const request = { ...requestOf(shown, all, { metric: shown.metric, channel: "set" }), interventions: [], candidates };
  results.set.want(keyOf(shown.tokens, shown.other, all, shown.metric), async () => {
    const { values, base } = await lab.sweep(request);
    const alone = Array.from(values.slice(1, n + 1), (value) => value - base);
    const last = all.map((_, i) => values[0] - (n > 1 ? values[n + 1 + i] : base));
    return { about: JSON.stringify(all), whole: values[0] - base, alone, last };
  }, 60);
}

/* What the changes of a state do alone and together; null where that is not measured yet. */
export function measuredSet(results, state) {
  const { value } = results.set;
  return value && value.about === JSON.stringify(interventionsOf(stackOf(state))) ? value : null;
}

function wantLens(results) {
  const { shown, lab } = results;
  const { tokens, answer } = shown;
  results.lensBase.want(keyOf(tokens, answer), async () => (
    { tokens, ...await lab.lens({ tokens, interventions: [], other: null, answer, channel: "lens base" }) }), 150);
  if (!shown.now.length) return;
  const request = requestOf(shown, shown.now, { answer, channel: "lens now" });
  results.lensNow.want(keyOf(tokens, request.other, shown.now, answer), async () => ({ tokens, ...await lab.lens(request) }), 150);
}

function wantSamples(results, state) {
  const { shown, lab } = results;
  const options = state.sample;
  const sampled = (task, which, request) => task.want(keyOf(request.tokens, request.other, request.interventions, options), async ({ alive }) => {
    const ids = [];
    const onToken = (id) => {
      ids.push(id);
      if (!alive() || ids.length % 4) return;
      results.spoken[which] = ids.slice();
      results.changed();
    };
    const found = await lab.sample({ ...request, ...options, onToken });
    if (alive()) results.spoken[which] = Array.from(found.ids);
    return results.spoken[which];
  }, 350);
  sampled(results.sampleBase, "base", requestOf(shown, [], { channel: "sample base" }));
  if (shown.now.length) sampled(results.sampleNow, "now", requestOf(shown, shown.now, { channel: "sample now" }));
}
