/* Mounts what a page or a notebook holds: CircuitsVis components, attention on a canvas, circuits, Plotly figures.
   Every block is <div data-ngl="ID" data-kind="..."> with a static picture inside, and beside it
   <script type="application/json" data-ngl-data="ID">. Text reaches the page by textContent alone. */
(function () {
  "use strict";
  if (window.NGL) { window.NGL.scan(); return; }
  const GLOBALS = { circuitsvis: "CircuitsVis", plotly: "Plotly" };
  const loading = {};
  let mounts = 0;

  async function inflate(text) {
    const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  const pause = (ms) => new Promise((done) => setTimeout(done, ms));

  async function fetchLibrary(name) {
    const began = Date.now();
    for (;;) {
      if (window[GLOBALS[name]]) return;
      const packed = document.querySelector(`script[data-ngl-library="${name}"]`);
      if (packed) {
        const script = document.createElement("script");
        script.textContent = await inflate(packed.textContent);
        document.head.appendChild(script);
        if (!window[GLOBALS[name]]) throw new Error(name + " did not start");
        return;
      }
      const waited = Date.now() - began;
      if (waited > 60000) throw new Error(name + " is not on this page");
      if (waited > 8000) document.querySelectorAll(`[data-ngl][data-needs="${name}"]:not([data-state=ready])`).forEach(hint);
      await pause(waited > 8000 ? 2000 : 250);
    }
  }

  function library(name) {
    if (!(name in GLOBALS)) return Promise.resolve();
    if (!loading[name]) {
      loading[name] = fetchLibrary(name);
      loading[name].catch(() => { delete loading[name]; });
    }
    return loading[name];
  }

  function hint(block) {
    if (block.querySelector("[data-ngl-hint]")) return;
    const note = document.createElement("p");
    note.dataset.nglHint = "";
    note.style.cssText = "font:13px system-ui,sans-serif;color:#656c7b;margin:4px 0";
    note.textContent = "A static picture: run ngl.setup_notebook() in this notebook for the interactive one.";
    block.appendChild(note);
  }

  function dataOf(block) {
    const data = document.querySelectorAll(`script[data-ngl-data="${block.dataset.ngl}"]`);
    const beside = block.parentElement && block.parentElement.querySelector(`script[data-ngl-data="${block.dataset.ngl}"]`);
    return JSON.parse((beside || data[0]).textContent);
  }

  const KINDS = {
    circuitsvis(block, data) {
      const place = document.createElement("div");
      place.id = "ngl-mount-" + ++mounts;
      const box = document.createElement("div");
      const grid = !/Colored|LogProbs/.test(block.dataset.component); // its rows reach 15 px out of their box
      box.style.cssText = `position:relative;padding:4px ${grid ? 16 : 0}px`;
      box.appendChild(place);
      const ready = new Promise((done) => {
        const seen = new MutationObserver(() => {
          if (place.firstElementChild) { seen.disconnect(); done(); }
        });
        seen.observe(place, { childList: true });
      });
      block.replaceChildren(box);
      window.CircuitsVis.render(place.id, window.CircuitsVis[block.dataset.component], data);
      return ready;
    },
    attention(block, data) {
      block.replaceChildren();
      window.NGL.attention(block, data);
    },
    circuit(block, data) {
      block.replaceChildren();
      window.NGL.circuit(block, data);
    },
    plotly(block, figure) {
      const data = window.NGL.dressed ? window.NGL.dressed(figure) : figure; // a page may have a dark theme
      if (block._fullLayout) window.Plotly.purge(block);
      const narrow = block.clientWidth < 480;
      const layout = Object.assign({}, data.layout, { autosize: true });
      delete layout.width;
      if (narrow) for (const trace of data.data) { // letters for which a phone has no room
        if (trace.name === "cells" && trace.meta && trace.meta.narrow === 0) trace.visible = false;
      }
      block.replaceChildren();
      return window.Plotly.newPlot(block, data.data, layout, {
        responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover",
      });
    },
  };

  async function mount(block) {
    if (block.dataset.state) return;
    block.dataset.state = "waiting";
    try {
      await library(block.dataset.needs);
      await KINDS[block.dataset.kind](block, dataOf(block));
      block.dataset.state = "ready";
      block.style.minHeight = "";
    } catch (error) {
      block.dataset.state = "static"; // the picture stays
      block.title = String(error.message || error);
    }
  }

  const seen = "IntersectionObserver" in window
    ? new IntersectionObserver((entries) => {
        for (const entry of entries) {
          if (entry.isIntersecting) { seen.unobserve(entry.target); mount(entry.target); }
        }
      }, { rootMargin: "600px" })
    : null;

  function scan() {
    document.querySelectorAll("[data-ngl]:not([data-state]):not([data-seen])").forEach((block) => {
      block.dataset.seen = "";
      if (seen && block.hasAttribute("data-lazy")) seen.observe(block);
      else mount(block);
    });
  }

  function all() {
    return Promise.all([...document.querySelectorAll("[data-ngl]")].map(mount));
  }

  window.NGL = { scan, all, mount };
  window.addEventListener("beforeprint", all);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", scan);
  else scan();
})();
