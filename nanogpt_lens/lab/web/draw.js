/* Small things that every view draws with. Text from the model goes through textContent alone. */

/* An element: options are "class", "text", "style", handlers ("onclick"), and attributes (null and false leave out). */
export function elem(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "style") element.style.cssText = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/* A button of the page's looks; `more` are further options. */
export function pressable(text, onclick, more = {}) {
  return elem("button", { type: "button", class: "btn", text, onclick, ...more });
}

/* A sentence as pieces, its “tokens” in a face that tells l from I. */
export function quotedWords(text) {
  return text.split(/(“[^”]+”)/).filter(Boolean).map((piece) => (piece[0] === "“" ? elem("span", { class: "quoted", text: piece }) : piece));
}

/* Set text only where it differs, so that nothing is announced or laid out without need. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/* Set an attribute only where it differs; null takes it away. */
export function setAttr(element, name, value) {
  if (value === null || value === false || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/* Replace the children, keeping the focus on the one with the same data-key. Nothing here asks how large anything is,
   which would lay out the whole page on the spot. */
export function rebuild(container, children) {
  const root = container.getRootNode();
  const focused = root.activeElement;
  const key = focused && container.contains(focused) ? focused.getAttribute("data-key") : null;
  container.replaceChildren(...children.filter(Boolean));
  if (key === null) return;
  const again = Array.from(container.querySelectorAll("[data-key]")).find((one) => one.getAttribute("data-key") === key);
  if (again) again.focus({ preventScroll: true });
}

/* A background between negative, nothing and positive; `share` from -1 to 1. */
export function divergingStyle(share) {
  if (!Number.isFinite(share)) return "";
  const strength = Math.round(Math.min(Math.abs(share), 1) ** 0.6 * 78); // small effects beside a large one stay visible
  const ink = strength > 58 ? "var(--deep)" : "var(--ink)";
  return `background:color-mix(in oklab, var(${share < 0 ? "--neg" : "--pos"}) ${strength}%, var(--cell));color:${ink}`;
}

/* A background from nothing to full; `share` from 0 to 1. */
export function shadeStyle(share, colour = "--acc") {
  if (!Number.isFinite(share)) return "";
  const strength = Math.round(Math.min(Math.max(share, 0), 1) * 90);
  const strong = colour === "--acc" ? "var(--on)" : "var(--deep)";
  return `background:color-mix(in oklab, var(${colour}) ${strength}%, var(--cell));color:${strength > 62 ? strong : "var(--ink)"}`;
}

/* A few choices in one frame, of which one is on. */
export function segmented(label, choices, onchoose) {
  const buttons = choices.map(([value, text]) => elem("button", {
    type: "button", role: "radio", "data-value": value, text, onclick: () => onchoose(value),
  }));
  const element = elem("div", { class: "seg", role: "radiogroup", "aria-label": label }, ...buttons);
  const values = choices.map(([value]) => value);
  element.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = buttons.indexOf(event.target.closest("button"));
    const to = (at + step + buttons.length) % buttons.length;
    onchoose(values[to]);
    buttons[to].focus();
  });
  return {
    element,
    update(value) {
      buttons.forEach((button, i) => {
        setAttr(button, "aria-checked", values[i] === value);
        button.tabIndex = values[i] === value ? 0 : -1;
      });
    },
  };
}

/* A select with its label. */
export function labelledSelect(label, choices, value, onchange, key = null) {
  const options = choices.map(([choice, text]) => elem("option", { value: choice, text }));
  const select = elem("select", { "aria-label": label, "data-key": key, onchange: () => onchange(select.value) }, ...options);
  select.value = String(value);
  return select;
}

/* A number field: only finite numbers within the bounds are taken. */
export function numberField(label, { value, min, max, step = "any", key = null, onchange }) {
  const input = elem("input", { type: "number", class: "num-in", "aria-label": label, "data-key": key, min, max, step, value });
  input.addEventListener("change", () => {
    const number = Number(input.value);
    if (input.value !== "" && Number.isFinite(number) && number >= (min ?? -1e6) && number <= (max ?? 1e6)) onchange(number);
    else input.value = value;
  });
  return input;
}

/* Arrow keys move the focus among items; `move(index, key)` says where to, or null. */
export function rovingFocus(container, items, move) {
  container.addEventListener("keydown", (event) => {
    const list = items();
    const at = list.indexOf(event.target);
    if (at < 0) return;
    const to = move(at, event.key, list.length);
    if (to === null || !list[to]) return;
    event.preventDefault();
    list.forEach((item, i) => { item.tabIndex = i === to ? 0 : -1; });
    list[to].focus();
  });
  container.addEventListener("focusin", (event) => {
    const list = items();
    if (list.includes(event.target)) list.forEach((item) => { item.tabIndex = item === event.target ? 0 : -1; });
  });
}

/* Where an arrow key leads in a row of n. */
export function alongRow(at, key, n) {
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: n - 1 }[key];
  return to === undefined || to < 0 || to >= n ? null : to;
}
