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
    document.querySelectorAll("main > section").forEach((section) => watch.observe(section));
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

  /* on paper everything is open */
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((part) => { part.open = true; });
  });
  window.addEventListener("afterprint", () => { closed.forEach((part) => { part.open = false; }); closed = []; });
})();
