/* Choosing a token: a button that opens a list which can be searched, the likeliest first. */
import { elem, rebuild, setAttr, setText } from "./draw.js";
import { createPopover } from "./draw_popover.js";
import { percentText } from "./numbers.js";
import { tokenInWords, tokenLabel } from "./tokens.js";

const MOST_SHOWN = 60;

function matchingTokens(payload, words, shares) {
  const n = payload.config.n_tokens ?? payload.config.d_vocab;
  const wanted = words.trim().toLowerCase();
  const ids = Array.from({ length: n }, (_, id) => id);
  const fits = (id) => tokenLabel(payload, id, 40).toLowerCase().includes(wanted) || String(id) === wanted
    || (wanted && tokenInWords(payload, id).toLowerCase().includes(wanted));
  const found = wanted || words === " " ? ids.filter((id) => (words === " " ? payload.vocab?.[id] === " " : fits(id))) : ids;
  return found.sort((a, b) => (shares ? shares[b] - shares[a] : a - b)).slice(0, MOST_SHOWN);
}

/* createPicker(payload, {label, none, choose(id | null)}) -> {element, update(id | null, shares, text)} */
export function createPicker(payload, { label, none = null, choose }) {
  const button = elem("button", { type: "button", class: "btn pick", "aria-haspopup": "listbox" });
  const search = elem("input", { type: "search", placeholder: "search", "aria-label": `search ${label}`, spellcheck: "false" });
  const list = elem("div", { class: "options", role: "listbox", "aria-label": label });
  const panel = elem("div", { class: "popover" }, search, list);
  const popover = createPopover(button, panel, { opened: () => { search.value = ""; fill(); search.focus(); }, first: () => search });
  let shares = null, current = null;

  function option(id, text, share) {
    const take = () => { popover.leave(); choose(id); };
    return elem("button", { type: "button", role: "option", "data-key": String(id), "aria-selected": String(id === current), onclick: take },
      elem("bdi", { class: "mono-text", text }), elem("span", { class: "mut", text: share === null ? "" : percentText(share) }));
  }
  function fill() {
    const ids = matchingTokens(payload, search.value, shares);
    rebuild(list, [
      none && !search.value ? option(null, none, null) : null,
      ...ids.map((id) => option(id, tokenLabel(payload, id, 24), shares ? shares[id] : null)),
      ids.length ? null : elem("p", { class: "note", text: "No token is like this." }),
    ]);
  }
  search.addEventListener("input", fill);
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    list.querySelector("button")?.click();
  });
  return {
    element: popover.element,
    close: popover.close,
    update(id, newShares, text) {
      current = id;
      shares = newShares;
      setText(button, text);
      setAttr(button, "aria-label", `${label}: ${text}`);
    },
  };
}
