/* The report's own controls: contents on phones, search among neurons, copying, folded parts when printing. */
(function () {
  "use strict";
  const narrow = window.matchMedia("(max-width: 1020px)");
  const contents = document.querySelector(".toc details");
  function fold() { if (contents) contents.open = !narrow.matches; }
  fold();
  narrow.addEventListener("change", fold);

  /* which section is being read */
  const links = new Map([...document.querySelectorAll(".toc a")].map((a) => [a.getAttribute("href").slice(1), a]));
  if ("IntersectionObserver" in window) {
    const seen = new Set();
    const order = [...links.keys()];
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) entry.isIntersecting ? seen.add(entry.target.id) : seen.delete(entry.target.id);
      const current = order.find((id) => seen.has(id));
      for (const [id, link] of links) id === current ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
    }, { rootMargin: "0px 0px -65% 0px" });
    document.querySelectorAll("main section[id]").forEach((section) => watch.observe(section));
  }
  links.forEach((link) => link.addEventListener("click", () => { if (narrow.matches && contents) contents.open = false; }));

  /* copying: the clipboard where it may be used, else a selection */
  document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    let done = false;
    try { await navigator.clipboard.writeText(code.textContent); done = true; } catch (error) { /* below */ }
    if (!done) {
      const range = document.createRange();
      range.selectNodeContents(code);
      const selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      try { done = document.execCommand("copy"); } catch (error) { done = false; }
    }
    button.textContent = done ? "copied" : "press Ctrl+C";
    setTimeout(() => { button.textContent = "copy"; }, 1600);
  }));

  /* the grid of parts: one stop for the tab key, arrows inside it, and a line that reads the part */
  const grid = document.querySelector(".grid");
  if (grid) {
    const readout = document.querySelector(".readout");
    const rows = [...grid.querySelectorAll(".layer")].flatMap((layer) => [[...layer.querySelectorAll(".head")], [...layer.querySelectorAll(".mlp")]]).filter((row) => row.length);
    const cells = rows.flat();
    const idle = readout.textContent;
    cells[0].tabIndex = 0;
    const say = (cell) => { readout.textContent = cell ? cell.dataset.words : idle; readout.toggleAttribute("data-on", Boolean(cell)); };
    const focused = () => (cells.includes(document.activeElement) ? document.activeElement : null);
    cells.forEach((cell) => {
      cell.removeAttribute("title"); // the line below says it
      cell.setAttribute("aria-label", cell.dataset.words);
      cell.addEventListener("mouseenter", () => say(cell));
      cell.addEventListener("mouseleave", () => say(focused()));
      cell.addEventListener("click", () => { cell.focus(); say(cell); });
      cell.addEventListener("focus", () => { cells.forEach((one) => { one.tabIndex = one === cell ? 0 : -1; }); say(cell); });
      cell.addEventListener("blur", () => say(null));
    });
    grid.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const y = rows.findIndex((row) => row.includes(event.target));
      if (!steps || y < 0) return;
      event.preventDefault();
      const row = rows[Math.min(rows.length - 1, Math.max(0, y + steps[0]))];
      const x = rows[y].indexOf(event.target) + steps[1];
      row[Math.min(row.length - 1, Math.max(0, x))].focus();
    });
  }

  /* a press outside closes what the certificate unfolds */
  const proof = document.querySelector(".proof-frame");
  if (proof) {
    document.addEventListener("pointerdown", (event) => { if (proof.open && !proof.contains(event.target)) proof.open = false; });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape" && proof.open) { proof.open = false; proof.querySelector("summary").focus(); } });
  }

  /* on paper everything is open */
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((part) => { part.open = true; });
  });
  window.addEventListener("afterprint", () => { closed.forEach((part) => { part.open = false; }); closed = []; });
})();
