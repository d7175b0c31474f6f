/* Light and dark: as the system has it, until the button says otherwise, for this page alone (nothing is stored).
   Plotly's figures are made for white paper; in the dark each of their colours is exchanged before they are drawn. */
(function () {
  "use strict";
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  /* "#rgb", "#rrggbb", "#rrggbbaa", "rgb(...)", "rgba(...)", "white", "black" -> [r, g, b, alpha]; else null */
  function parsed(text) {
    const named = { white: "#ffffff", black: "#000000" }[text] || text;
    const hex = /^#([0-9a-f]{3}|[0-9a-f]{6}|[0-9a-f]{8})$/i.exec(named);
    if (hex) {
      const wide = hex[1].length === 3 ? [...hex[1]].map((c) => c + c).join("") : hex[1];
      const part = (i) => parseInt(wide.slice(2 * i, 2 * i + 2), 16);
      return [part(0), part(1), part(2), wide.length === 8 ? part(3) / 255 : 1];
    }
    const rgb = /^rgba?\(([^)]*)\)$/i.exec(named);
    const parts = rgb ? rgb[1].split(",").map(Number) : [];
    return parts.length >= 3 && parts.every(Number.isFinite) ? [parts[0], parts[1], parts[2], parts[3] ?? 1] : null;
  }

  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const gamma = (v) => 255 * (v <= 0.0031308 ? 12.92 * Math.max(0, v) : 1.055 * v ** (1 / 2.4) - 0.055);

  /* OKLab (Ottosson 2020): in it, lightness can be turned without the hue. */
  function toLab([red, green, blue]) {
    const [r, g, b] = [red, green, blue].map((v) => linear(v / 255));
    const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
    const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
    const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
    return [0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s, 1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
      0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s];
  }

  function fromLab([light, a, b]) {
    const l = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const m = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const s = (light - 0.0894841775 * a - 1.291485548 * b) ** 3;
    const rgb = [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s, -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s];
    return rgb.map((v) => Math.round(Math.min(255, Math.max(0, gamma(v)))));
  }

  const TABLE = window.NGL_DARK || {};
  const DARKEST = 0.232, SPAN = 0.72, LEAST = 0.64; // white becomes the dark card; lines are at least so light

  /* A colour in the dark: by the palette's table, else grey and steps of scales turned over, and others lightened. */
  function darkOf(text, inScale) {
    const known = TABLE[text.slice(0, 7).toLowerCase()];
    if (known && /^#([0-9a-f]{6}|[0-9a-f]{8})$/i.test(text)) return known + text.slice(7);
    const colour = parsed(text);
    if (!colour) return text;
    const [light, a, b] = toLab(colour);
    const turned = inScale || Math.hypot(a, b) < 0.04 ? DARKEST + (1 - light) * SPAN : Math.max(light, LEAST);
    return `rgba(${fromLab([turned, a, b]).join(",")},${colour[3]})`;
  }

  const INSIDE = /(<span style="color:)(#[0-9a-f]{6})/gi;

  /* A figure's JSON with dark colours; only what stands under a key about colours is one. */
  function exchanged(value, key, inScale) {
    if (typeof value === "string") {
      if (key === "paper_bgcolor") return "rgba(0,0,0,0)";
      if (key === "plot_bgcolor" && /^(#fff(fff)?|white)$/i.test(value)) return "rgba(0,0,0,0)";
      if (inScale || /colou?r/i.test(key)) return darkOf(value, inScale);
      return value.includes("<span") ? value.replace(INSIDE, (all, before, colour) => before + darkOf(colour, false)) : value;
    }
    if (Array.isArray(value)) return value.map((one) => exchanged(one, key, inScale));
    if (value && typeof value === "object") {
      const made = {};
      for (const [name, one] of Object.entries(value)) made[name] = exchanged(one, name, inScale || /colorscale/i.test(name));
      return made;
    }
    return value;
  }

  window.NGL.dressed = (figure) => (isDark() ? exchanged(figure, "", false) : figure);

  function apply() {
    root.toggleAttribute("data-dark", isDark());
    document.querySelectorAll("[data-kind=plotly][data-state=ready]").forEach((block) => {
      delete block.dataset.state; // it is drawn again when it comes into view
      delete block.dataset.seen;
    });
    window.NGL.scan();
    window.dispatchEvent(new Event("ngl-theme"));
  }

  root.toggleAttribute("data-dark", isDark());
  system.addEventListener("change", apply);
  const button = document.getElementById("theme");
  if (button) button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; apply(); });

  /* paper is light */
  let before = null;
  window.addEventListener("beforeprint", () => {
    if (!isDark()) return;
    before = root.dataset.theme ?? "";
    root.dataset.theme = "light";
    apply();
    window.NGL.all();
  });
  window.addEventListener("afterprint", () => {
    if (before === null) return;
    if (before) root.dataset.theme = before; else delete root.dataset.theme;
    before = null;
    apply();
  });
})();
