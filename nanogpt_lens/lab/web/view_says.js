/* What the model says next: a sentence made of the numbers, and bars before and after. */
import { elem, quotedWords, setAttr, setText } from "./draw.js";
import { largestOf, percentText, plainNumber, signedNumber } from "./numbers.js";
import { partsOf } from "./results.js";
import { partName, stackOf } from "./stack.js";
import { plainWords, tokenInWords, tokenLabel } from "./tokens.js";
import { headlineOf, setInWords } from "./words.js";

const BARS = 7;

function createBar() {
  const token = elem("bdi", { class: "tok" });
  const tracks = ["was", "now", "beside"].map((name) => elem("div", { class: `t ${name}` }));
  const [before, after] = [elem("span", { class: "num" }), elem("span", { class: "num now" })];
  const lines = elem("div", { class: "tracks", "aria-hidden": "true" }, ...tracks);
  const element = elem("div", { class: "bar", role: "listitem" }, token, lines, before, after);
  return { element, token, tracks, before, after };
}

/* The tokens of the bars: the answer, and the likeliest of the runs, in the order of the run as trained. */
function tokensOfBars(shown) {
  const runs = [shown.before, shown.after, shown.besides].filter(Boolean);
  const most = Float64Array.from(shown.before, (_, id) => Math.max(...runs.map((run) => run[id])));
  const asked = [shown.answer, shown.wrong].filter((id) => id !== null);
  const likeliest = largestOf(most, BARS).filter((id) => !asked.includes(id));
  return [...asked, ...likeliest].slice(0, Math.min(BARS, most.length)).sort((a, b) => shown.before[b] - shown.before[a]);
}

/* The runs of the three tracks: as trained, and the changes; in a comparison A has the second and B the third. */
function tracksOf(shown) {
  if (!shown.besides) return [shown.before, shown.now.length ? shown.after : null, null];
  return shown.idle === "B" ? [shown.before, shown.after, shown.besides] : [shown.before, shown.besides, shown.after];
}

function updateBar(page, bar, id, shown, largest) {
  bar.element.hidden = id === undefined;
  if (id === undefined) return;
  const changed = shown.now.length > 0;
  setText(bar.token, tokenLabel(page.payload, id, 6));
  setAttr(bar.element, "data-answer", id === shown.answer ? "answer" : id === shown.wrong ? "wrong" : null);
  const runs = tracksOf(shown);
  bar.tracks.forEach((track, i) => {
    track.hidden = !runs[i];
    if (runs[i]) track.style.width = `${(100 * runs[i][id]) / largest}%`;
  });
  setText(bar.before, percentText(shown.before[id]));
  setText(bar.after, changed ? percentText(shown.after[id]) : "");
  const beside = shown.besides ? `, in ${shown.idle} ${percentText(shown.besides[id])}` : "";
  const now = changed ? `, ${percentText(shown.after[id])} with your changes` : "";
  setAttr(bar.element, "aria-label", `${tokenInWords(page.payload, id)}: ${percentText(shown.before[id])} as trained${now}${beside}`);
}

function measureInWords(page, shown) {
  const name = tokenInWords(page.payload, shown.answer);
  const what = shown.wrong === null ? `log P(${name})` : `logit of ${name} minus logit of ${tokenInWords(page.payload, shown.wrong)}`;
  const unit = shown.wrong === null ? " nats" : "";
  const [before, after, beside] = shown.metrics;
  if (!shown.now.length && beside === null) return `${what}: ${plainNumber(before)}${unit}`;
  const now = shown.now.length ? ` → ${plainNumber(after)}${unit} (${signedNumber(after - before)})` : unit;
  const other = beside === null ? "" : `; in ${shown.idle} ${plainNumber(beside)} (${signedNumber(beside - before)})`;
  return `${what}: ${plainNumber(before)}${now}${other}`;
}

/* What to try first: a part that Python named, or the one that matters most here. */
function invitationOf(page) {
  const { findings, config } = page.payload;
  const { value } = page.results.grid;
  const parts = partsOf(config);
  const named = findings?.heads ?? {};
  const weight = (part, i) => Math.abs(value?.values[i] ?? 0) * (named[partName(part)] ? 3 : 1);
  const heads = parts.map((part, i) => ({ part, weight: weight(part, i) })).filter(({ part }) => !part.mlp);
  if (!heads.length || !value || value.values.some(Number.isNaN)) return " ";
  const best = heads.reduce((a, b) => (b.weight > a.weight ? b : a)).part;
  const finding = named[partName(best)];
  const label = finding?.label ? ` (${plainWords(finding.label, 60)})` : "";
  return `Click head ${partName(best)}${label}: it is switched off, and this line says what changes.`;
}

function updateHeadline(page, headline, shown) {
  const { payload } = page;
  if (headline.shown === shown) return;
  headline.shown = shown;
  const lead = shown.wrong === null ? null : { wrong: shown.wrong, before: shown.metrics[0], after: shown.metrics[1] };
  const pieces = headlineOf(payload, { interventions: shown.now, before: shown.before, after: shown.after, answer: shown.answer, lead });
  const text = pieces.map((piece) => piece.text).join("");
  if (headline.dataset.said === text) return;
  headline.dataset.said = text;
  const tones = { "-1": "less", 0: "same", 1: "more" };
  headline.replaceChildren(...pieces.map(({ text: words, tone }) => (
    tone === undefined ? elem("bdi", {}, ...quotedWords(words)) : elem("em", { text: words, "data-tone": tones[tone] }))));
}

export function viewSays(page) {
  const headline = elem("p", { class: "say", "aria-live": "polite", "aria-atomic": "true", text: "The model is being unpacked…" });
  const invitation = elem("p", { class: "note invite" });
  const problem = elem("p", { class: "problem", role: "alert" });
  const bars = Array.from({ length: BARS }, createBar);
  const list = elem("div", { class: "bars", role: "list", "aria-label": "next tokens" }, ...bars.map(({ element }) => element));
  const keys = ["as trained", "with your changes", ""].map((text, i) => elem("span", { class: ["was", "now", "beside"][i], text }));
  const measure = elem("p", { class: "measure" });
  const sentence = elem("div", { class: "say-frame" }, headline, invitation);
  const element = elem("div", { class: "says" }, elem("h2", { text: "What the model says next" }), sentence, problem, list,
    elem("div", { class: "key" }, ...keys), measure);
  return {
    element,
    update(state) {
      const { shown } = page.results;
      setText(problem, page.results.problem ?? "");
      setAttr(element, "aria-busy", page.results.running(state));
      if (!shown) return;
      updateHeadline(page, headline, shown);
      setText(invitation, stackOf(state).length ? " " : invitationOf(page));
      const ids = tokensOfBars(shown);
      const widest = Math.max(...ids.map((id) => Array.from(tokenLabel(page.payload, id, 6)).length));
      list.style.setProperty("--tok", `${Math.min(Math.max(9.5 * widest + 12, 40), 110)}px`);
      const largest = Math.max(0.05, ...ids.flatMap((id) => [shown.before[id], shown.after[id], shown.besides?.[id] ?? 0]));
      bars.forEach((bar, i) => updateBar(page, bar, ids[i], shown, largest));
      const key = (name) => `${name}: ${shown[name].length ? setInWords(page.payload, shown[name]) : "no change"}`;
      setText(keys[1], shown.besides ? key("A") : "with your changes");
      setText(keys[2], shown.besides ? key("B") : "");
      keys[2].hidden = !shown.besides;
      ["A", "B"].forEach((name, i) => setAttr(keys[i + 1], "data-active", shown.besides && state.active === name ? "" : null));
      setAttr(list, "data-three", shown.besides ? "" : null);
      const measured = measureInWords(page, shown);
      if (measure.textContent !== measured) measure.replaceChildren(...quotedWords(measured));
    },
  };
}
