/* What the model would say if it stopped after each layer: by layer at the position that is read, and the whole table. */
import { elem, rebuild, segmented, setAttr, setText, shadeStyle } from "./draw.js";
import { createMatrix } from "./draw_matrix.js";
import { percentText } from "./numbers.js";
import { tokenInWords, tokenLabel } from "./tokens.js";

/* The lens of the run with the changes where it is there, else as trained; null where neither fits the prompt. */
function lensNow(page) {
  const { shown, lensBase, lensNow: now } = page.results;
  const found = shown?.now.length ? now.value : lensBase.value;
  return found && shown && JSON.stringify(found.tokens) === JSON.stringify(shown.tokens) ? found : null;
}

function answerAt(lens, row, pos) {
  return lens?.answer ? lens.answer[row * lens.tokens.length + pos] : NaN;
}

function lensRow(payload, { lens, base, name, row, pos, changed }) {
  const [was, is] = [answerAt(base, row, pos), answerAt(lens, row, pos)];
  const i = row * lens.tokens.length + pos;
  const [top, share] = [lens.top[i], lens.prob[i]];
  const now = changed ? `, now ${percentText(is)}` : "";
  const said = `${name}: ${tokenInWords(payload, top)} ${percentText(share)}; the answer ${percentText(was)}${now}`;
  const track = (look, value) => elem("div", { class: `t ${look}`, style: `width:${100 * value}%` });
  return elem("div", { class: "lens-row", role: "listitem", "aria-label": said },
    elem("span", { class: "mut", text: name }), elem("bdi", { class: "tok", text: tokenLabel(payload, top, 6), style: shadeStyle(share) }),
    elem("div", { class: "tracks" }, track("was", was), changed ? track("now", is) : null),
    elem("span", { class: "num", text: percentText(changed ? is : was) }));
}

/* The tab: layers from the last to the first at the position that is read. */
export function viewLensTab(page) {
  const { payload } = page;
  const list = elem("div", { class: "lens-list", role: "list" });
  const note = elem("p", { class: "note" });
  const problem = elem("p", { class: "problem" });
  const element = elem("div", {}, list, note, problem);
  return {
    element,
    update() {
      const { shown, lensBase } = page.results;
      const lens = lensNow(page), base = lensBase.value;
      setText(problem, page.results.lensNow.problem ?? lensBase.problem ?? "");
      if (!lens || !base || base.tokens.length !== lens.tokens.length) return;
      const changed = shown.now.length > 0;
      rebuild(list, lens.rows.map((name, row) => lensRow(payload, { lens, base, name, row, pos: shown.pos, changed })).reverse());
      const runs = changed ? ", as trained (grey) and with your changes" : "";
      const answer = `the probability of ${tokenInWords(payload, shown.answer)}${runs}`;
      setText(note, `At position ${shown.pos}: the likeliest token if the model stopped there, and ${answer}.`);
    },
  };
}

/* The card: layers by positions. */
export function viewLensCard(page) {
  const { payload, store } = page;
  let lens = null;
  const rowAt = (row) => lens.rows.length - 1 - row;
  const matrix = createMatrix({
    label: "what each layer believes; arrow keys move, Enter reads at a position",
    read(row, column) {
      const i = rowAt(row) * lens.tokens.length + column;
      const where = `After ${lens.rows[rowAt(row)]}, at ${tokenInWords(payload, lens.tokens[column])} (${column})`;
      const answer = lens.answer ? `; ${tokenInWords(payload, page.results.shown.answer)} has ${percentText(lens.answer[i])}` : "";
      return `${where}: ${tokenInWords(payload, lens.top[i])} ${percentText(lens.prob[i])}${answer}`;
    },
    choose: (row, column) => store.set({ read: column === lens.tokens.length - 1 ? null : column }),
  });
  const which = segmented("what the colour shows", [["likeliest", "likeliest"], ["answer", "the answer"]], (value) => store.set({ lens: value }));
  const note = elem("p", { class: "note" });
  const head = elem("div", { class: "card-head" }, elem("h2", { text: "What each layer believes" }), which.element);
  const element = elem("section", { class: "card full", "aria-label": "what each layer believes" }, head, matrix.element, note);
  return {
    element,
    update(state) {
      which.update(state.lens);
      lens = lensNow(page) ?? lens;
      setAttr(element, "aria-busy", page.results.lensBase.busy || page.results.lensNow.busy);
      if (!lens) return;
      const n = lens.tokens.length, ofAnswer = state.lens === "answer" && lens.answer !== null;
      const at = (row, column) => rowAt(row) * n + column;
      matrix.update({
        about: [lens, ofAnswer],
        rows: lens.rows.slice().reverse(), columns: lens.tokens.map((id) => tokenLabel(payload, id, 6)), largest: 1, diverging: false,
        value: (row, column) => (ofAnswer ? lens.answer : lens.prob)[at(row, column)],
        text: (row, column) => {
          const i = at(row, column);
          return ofAnswer ? String(Math.round(100 * lens.answer[i])) : tokenLabel(payload, lens.top[i], 4);
        },
      });
      const { shown } = page.results;
      const what = ofAnswer && shown ? `The probability of ${tokenInWords(payload, shown.answer)}, in percent,` : "The likeliest next token";
      setText(note, `${what} if the model stopped there, by layer (rows) and position (columns); the stronger a colour, the ${ofAnswer ? "likelier" : "surer"}.`);
    },
  };
}
