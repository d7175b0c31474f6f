/* Taking things out of the page: the clipboard, a link, the file itself with its state. */
import { elem } from "./draw.js";
import { fragmentOf } from "./state.js";
import { interventionsOf, stackOf } from "./stack.js";

/* Copy a text; whether that worked. */
export async function copyText(text, root) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = elem("textarea", { class: "unseen", "aria-hidden": "true" });
    area.value = text;
    root.append(area);
    area.select();
    let worked = false;
    try { worked = document.execCommand("copy"); } catch { worked = false; }
    area.remove();
    return worked;
  }
}

/* The changes as JSON, as `ngl.intervene` and window.lab.run take them. */
export function jsonOf(payload, state) {
  const { tokens, other } = state;
  const interventions = interventionsOf(stackOf(state));
  return JSON.stringify({ model: payload.name, sha256: payload.sha256 ?? null, tokens, other, interventions }, null, 2);
}

/* The page's address with the state in it. */
export function linkOf(state) {
  return `${location.href.split("#")[0]}#${fragmentOf(state)}`;
}

/* The whole document as text, the state inside, the page not yet drawn. */
export function documentWithState(mount, state) {
  const mark = "data-lab-mount-here";
  mount.setAttribute(mark, "");
  const copy = document.documentElement.cloneNode(true);
  mount.removeAttribute(mark);
  const place = copy.querySelector(`[${mark}]`);
  if (place) {
    place.replaceChildren();
    place.removeAttribute(mark);
  }
  let script = copy.querySelector('script[data-lab="state"]');
  if (!script) {
    script = elem("script", { type: "application/json", "data-lab": "state" });
    copy.querySelector("body").prepend(script);
  }
  script.textContent = JSON.stringify(state).replaceAll("<", "\\u003c").replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029");
  return `<!doctype html>\n${copy.outerHTML}\n`;
}

/* Hand a file to the visitor. */
export function downloadText(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/html" }));
  const link = elem("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/* A safe name for a file. */
export function fileNameOf(text) {
  return text.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[-._]+|[-._]+$/g, "").slice(0, 60) || "model";
}
