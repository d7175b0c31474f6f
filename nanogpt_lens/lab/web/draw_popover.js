/* A panel that a button opens: Escape, a press elsewhere and leaving it close it; arrow keys go through its choices. */
import { elem, setAttr } from "./draw.js";

/* createPopover(button, panel, {opened, first}) -> {element, open(yes), close(), leave()}; `first()` is where the arrow
   keys begin, above the choices; `leave()` closes it and goes back to the button. */
export function createPopover(button, panel, { opened, first = () => null }) {
  const element = elem("span", { class: "pick-frame" }, button, panel);
  panel.hidden = true;
  setAttr(button, "aria-expanded", "false");

  function open(yes) {
    panel.hidden = !yes;
    setAttr(button, "aria-expanded", yes);
    if (!yes) return;
    panel.style.transform = "none";
    const box = panel.getBoundingClientRect(), wide = document.documentElement.clientWidth;
    const shift = Math.max(8 - box.left, 0) || Math.min(wide - 8 - box.right, 0); // stays within the window
    if (shift) panel.style.transform = `translateX(${shift}px)`;
    opened();
  }
  const leave = () => { open(false); button.focus(); };
  function step(event, by) {
    event.preventDefault();
    const choices = [first(), ...panel.querySelectorAll("button")].filter(Boolean);
    const at = choices.indexOf(event.target.closest("button, input"));
    choices[Math.min(Math.max(at + by, 0), choices.length - 1)]?.focus();
  }
  button.addEventListener("click", () => open(panel.hidden));
  element.addEventListener("keydown", (event) => {
    if (panel.hidden) return;
    if (event.key === "Escape") { event.stopPropagation(); leave(); }
    if (event.key === "ArrowDown") step(event, 1);
    if (event.key === "ArrowUp") step(event, -1);
  });
  element.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !element.contains(event.relatedTarget)) open(false);
  });
  return { element, open, leave, close: () => { if (!panel.hidden) open(false); } };
}
