/* Choosing a token: a button that opens a list which can be searched, the likeliest first. */
import { elem, rebuild, setAttr, setText } from "./draw.js";
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
  const button = elem("button", { type: "button", class: "btn pick", "aria-haspopup": "listbox", "aria-expanded": "false" });
  const search = elem("input", { type: "search", placeholder: "search", "aria-label": `search ${label}`, spellcheck: "false" });
  const list = elem("div", { class: "options", role: "listbox", "aria-label": label });
  const panel = elem("div", { class: "popover", hidden: true }, search, list);
  const element = elem("span", { class: "pick-frame" }, button, panel);
  let shares = null, current = null;

  const isOpen = () => !panel.hidden;
  function open(yes) {
    panel.hidden = !yes;
    setAttr(button, "aria-expanded", yes);
    if (!yes) return;
    search.value = "";
    fill();
    search.focus();
  }
  function take(id) {
    open(false);
    button.focus();
    choose(id);
  }
  function option(id, text, share) {
    return elem("button", { type: "button", role: "option", "data-key": String(id), "aria-selected": String(id === current), onclick: () => take(id) },
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
  button.addEventListener("click", () => open(!isOpen()));
  search.addEventListener("input", fill);
  element.addEventListener("keydown", (event) => pickerKey(event, { list, search, isOpen, close: () => { open(false); button.focus(); } }));
  element.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !element.contains(event.relatedTarget)) open(false);
  });
  return {
    element,
    close: () => isOpen() && open(false),
    update(id, newShares, text) {
      current = id;
      shares = newShares;
      setText(button, text);
      setAttr(button, "aria-label", `${label}: ${text}`);
    },
  };
}

function pickerKey(event, { list, search, isOpen, close }) {
  if (!isOpen()) return;
  const options = Array.from(list.querySelectorAll("button"));
  const at = options.indexOf(event.target);
  if (event.key === "Escape") { event.stopPropagation(); close(); }
  else if (event.key === "ArrowDown") { event.preventDefault(); options[Math.min(at + 1, options.length - 1)]?.focus(); }
  else if (event.key === "ArrowUp") { event.preventDefault(); (at <= 0 ? search : options[at - 1]).focus(); }
  else if (event.key === "Enter" && event.target === search) { event.preventDefault(); options[0]?.click(); }
}
