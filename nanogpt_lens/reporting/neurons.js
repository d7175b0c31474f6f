/* All neurons in one table: unpacked from arrays, sorted, searched, and drawn row by row where one looks. */
(function () {
  "use strict";
  const place = document.querySelector(".neuron-table");
  if (!place || !("DecompressionStream" in window)) return;
  const part = (name) => place.querySelector(`script[data-neurons="${name}"]`);
  const head = JSON.parse(part("header").textContent);
  const NONE = -2147483647;
  const LEVELS = 8;
  const HEIGHTS = 31;

  /* the arrays: the bytes of one weight stand together */
  async function unpack() {
    const packed = Uint8Array.from(atob(part("data").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const data = new Uint8Array(await new Response(stream).arrayBuffer());
    const arrays = {};
    let at = 0;
    for (const [name, each, , shape] of head.arrays) {
      const n = shape.reduce((a, b) => a * b, 1);
      const bytes = new Uint8Array(n * each);
      for (let plane = 0; plane < each; plane += 1) for (let i = 0; i < n; i += 1) bytes[i * each + plane] = data[at + plane * n + i];
      at += n * each;
      arrays[name] = each === 1 ? bytes : each === 2 ? new Uint16Array(bytes.buffer) : new Int32Array(bytes.buffer);
    }
    return arrays;
  }

  const number = (whole, digits) => (whole === NONE ? "–" : (whole / 10 ** digits).toFixed(digits).replace("-", "−"));
  const percent = (whole) => (whole >= 100 ? `${Math.round(whole / 10)}%` : `${(whole / 10).toFixed(1)}%`);
  const marked = (token) => token.replace(/ /g, "·");

  function element(tag, attributes, ...inside) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) if (value !== false) made.setAttribute(name, value === true ? "" : value);
    made.append(...inside); // text, never HTML
    return made;
  }

  function start(a) {
    const n = a.site.length;
    const [nTop, nLow] = a.split;
    const k = nTop + nLow;
    const nTokens = n ? a.promoted.length / n : 0;
    const names = Array.from(a.site, (site) => `${head.layers[Math.floor(site / head.width)]}.${site % head.width}`);
    const shadeAt = new Int32Array(n * k + 1); // where the shades of an excerpt begin
    for (let i = 0; i < n * k; i += 1) shadeAt[i + 1] = shadeAt[i] + a.lengths[i];
    const why = new Map(head.listed);
    const classy = (i) => head.classes.length > 0 && a.auroc[i] !== NONE && a.auroc[i] / 1000 > head.classes[a.class[i]].chance;
    const nouns = (count) => `${count.toLocaleString("en")} ${head.kind}${count === 1 ? "" : "s"}`;

    /* columns: key, heading, what it sorts by, the cell */
    const columns = [
      ["name", head.kind, (i) => -a.site[i], (i) => names[i]],
      ["peak", "peak", (i) => a.peak[i], (i) => number(a.peak[i], 2)],
      ["above", "above 0", (i) => a.above[i], (i) => percent(a.above[i])],
      ["deviations", "peak, sd", (i) => a.deviations[i], (i) => number(a.deviations[i], 1)],
      ...(head.classes.length ? [["class", "tells apart", (i) => (classy(i) ? a.auroc[i] : NONE), classCell]] : []),
      ["raises", "raises", (i) => a.promoted_logits[i * nTokens], raisesCell],
      ["glimpse", "where it peaks", null, glimpse],
    ];
    const long = { name: "number", peak: "highest activation", above: "share of tokens above 0", deviations: "standard deviations of the peak above the mean", class: "AUROC of the class that it separates best beside chance", raises: "largest logit it raises" };

    function classCell(i) {
      if (!classy(i)) return element("span", { class: "muted", title: "not above what 95 of 100 shifts reach" }, "–");
      return element("span", { title: `AUROC ${number(a.auroc[i], 3)}: ${a.higher[i] ? "higher" : "lower"} on ${head.classes[a.class[i]].name}` }, `${number(Math.round(a.auroc[i] / 10), 2)} ${head.classes[a.class[i]].name}${a.higher[i] ? "" : ", low"}`);
    }
    function tokenOf(id) { return head.tokens[id]; }
    function raisesCell(i) {
      const cell = element("span", { class: "tok" });
      for (let j = 0; j < Math.min(3, nTokens); j += 1) cell.append(`${j ? " " : ""}${marked(tokenOf(a.promoted[i * nTokens + j]))}`);
      return cell;
    }
    function glimpse(i) {
      const at = a.starts[i * k], peak = a.peaks[i * k], length = a.lengths[i * k];
      if (at < 0 || !length) return "";
      const span = element("span", { class: "tokens glimpse" });
      span.append(words(at + Math.max(0, peak - 14), at + peak), element("i", { class: "peak" }, marked(tokenOf(a.text[at + peak]))), words(at + peak + 1, at + Math.min(length, peak + 9)));
      return span;
    }
    function words(from, to) {
      let text = "";
      for (let t = from; t < to; t += 1) text += tokenOf(a.text[t]) + head.separator;
      return text;
    }

    /* one neuron, opened */
    function facts(i) {
      const pairs = [["mean", number(a.mean[i], 3)], ["standard deviation", number(a.sd[i], 3)], ["median", number(a.median[i], 3)], ["99th percentile", number(a.high[i], 3)], ["above 0", `${number(a.above[i], 1)}%`]];
      const list = element("dl");
      pairs.forEach(([name, value]) => list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value))));
      return list;
    }
    function histogram(i) {
      const bins = a.histogram.length / n, space = "http://www.w3.org/2000/svg";
      const low = a.bounds[2 * i], high = a.bounds[2 * i + 1];
      const svg = document.createElementNS(space, "svg");
      svg.setAttribute("viewBox", `0 0 ${bins * 5} 60`);
      svg.setAttribute("preserveAspectRatio", "none");
      const shape = (tag, attributes) => {
        const made = document.createElementNS(space, tag);
        for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
        svg.append(made);
      };
      for (let b = 0; b < bins; b += 1) {
        const height = (58 * a.histogram[i * bins + b]) / HEIGHTS;
        if (height) shape("rect", { x: b * 5, y: 60 - height, width: 4, height });
      }
      if (low < 0 && high > 0) { const x = (-low / (high - low)) * bins * 5; shape("line", { x1: x, x2: x, y1: 0, y2: 60 }); }
      const says = element("figcaption", {}, element("span", {}, number(low, 2)), element("span", {}, "activation of a sample; height: log of the count; line: 0"), element("span", {}, number(high, 2)));
      return element("figure", { class: "histogram", role: "img", "aria-label": `histogram of the activation, from ${number(low, 2)} to ${number(high, 2)}` }, svg, says);
    }
    function logits(i) {
      const line = element("p", { class: "logits" });
      [["Raises the logits of", "promoted"], ["Lowers those of", "suppressed"]].forEach(([says, which], row) => {
        if (row) line.append(element("br"));
        line.append(element("b", {}, says), " ");
        for (let j = 0; j < nTokens; j += 1) {
          const at = i * nTokens + j;
          line.append(element("span", { class: "tok" }, `“${marked(tokenOf(a[which][at]))}”`), ` ${number(a[`${which}_logits`][at], 2)}${j < nTokens - 1 ? ", " : ""}`);
        }
      });
      return line;
    }
    function excerpt(at) {
      const from = a.starts[at], shades = shadeAt[at], peak = a.peaks[at];
      const line = element("span", { class: "tokens" });
      for (let t = 0; t < a.lengths[at]; t += 1) {
        const level = a.shades[shades + t] - LEVELS;
        const shade = level > 0 ? `p${level}` : level < 0 ? `n${-level}` : "";
        const text = tokenOf(a.text[from + t]) + head.separator;
        line.append(shade || t === peak ? element("i", { class: `${shade}${t === peak ? " peak" : ""}` }, t === peak ? marked(text) : text) : text);
      }
      return element("li", {}, element("b", {}, number(a.values[at], 2)), line);
    }
    function excerpts(i, from, to, title) {
      const list = element("ol", { class: "excerpts" });
      for (let j = from; j < to; j += 1) if (a.starts[i * k + j] >= 0) list.append(excerpt(i * k + j));
      return list.children.length ? [element("h4", {}, title), list] : [];
    }
    function card(i) {
      const reason = why.get(i);
      return element("div", { class: "card", id: "neuron-open", role: "region", "aria-label": `${head.kind} ${names[i]}` },
        ...(reason ? [element("p", { class: "reason" }, `Listed first: ${reason}.`)] : []),
        element("div", { class: "numbers" }, facts(i), histogram(i)), logits(i),
        ...excerpts(i, 0, nTop, "Where it is highest"), ...excerpts(i, nTop, k, "Where it is lowest"));
    }

    /* search: a name, a token, a class, or words in the excerpts */
    const plain = (text) => text.toLowerCase().replace(/[·⍽]/g, " ").replace(/\s+/g, " ");
    const lower = head.tokens.map(plain);
    let joined = null;
    function wholeText() { // once, when words are first looked for
      if (joined) return joined;
      const pieces = Array.from(a.text, (id) => lower[id] + head.separator);
      const tokenAt = new Int32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
      let at = 0;
      pieces.forEach((piece, t) => { tokenAt.fill(t, at, at + piece.length); at += piece.length; });
      joined = { text: pieces.join(""), tokenAt };
      return joined;
    }
    function withWords(wanted) {
      const { text, tokenAt } = wholeText();
      const size = a.text.length, last = new Int32Array(size + 1).fill(size); // of the first match from here on, its last token
      for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + 1)) {
        const from = tokenAt[at];
        if (last[from] === size) last[from] = tokenAt[at + wanted.length - 1];
      }
      for (let t = size - 1; t >= 0; t -= 1) if (last[t] === size) last[t] = last[t + 1];
      return (i) => {
        for (let j = i * k; j < (i + 1) * k; j += 1) if (a.starts[j] >= 0 && last[a.starts[j]] < a.starts[j] + a.lengths[j]) return true;
        return false;
      };
    }
    function onToken(ids) {
      return (i) => {
        for (let j = i * k; j < i * k + nTop; j += 1) if (a.starts[j] >= 0 && ids.has(a.text[a.starts[j] + a.peaks[j]])) return true;
        for (let j = i * nTokens; j < (i + 1) * nTokens; j += 1) if (ids.has(a.promoted[j])) return true;
        return false;
      };
    }
    function found(typed) { // which neurons, and what they have, in words
      const wanted = plain(typed), short = wanted.trim();
      if (!short) return [null, ""];
      if (/^\d+\.\d*$/.test(short)) return [(i) => names[i].startsWith(short), "by that number"];
      const classes = new Set(short.length < 3 ? [] : head.classes.flatMap((one, c) => (one.name.toLowerCase().includes(short) ? [c] : [])));
      if (classes.size) return [(i) => classy(i) && classes.has(a.class[i]), `tell ${[...classes].map((c) => head.classes[c].name).join(" or ")} apart`];
      const exact = (text) => new Set(lower.flatMap((token, id) => (token === text ? [id] : [])));
      const ids = exact(wanted).size ? exact(wanted) : exact(short);
      if (ids.size) return [onToken(ids), "peak on that token or raise it"];
      return [withWords(short), "have that in an excerpt"];
    }

    /* order */
    const rank = new Map(head.listed.map(([i], at) => [i, at]));
    let sort = "listed", down = true, order = [], open = -1, active = 0;
    function sorted(kept) {
      const column = columns.find(([key]) => key === sort);
      const value = column ? column[2] : (i) => a.deviations[i];
      const first = (i) => (column || !rank.has(i) ? Infinity : rank.get(i));
      return kept.sort((x, y) => {
        if (first(x) !== first(y)) return first(x) - first(y);
        const one = value(x), other = value(y);
        if (one === NONE || other === NONE) return (one === NONE) - (other === NONE) || x - y;
        return (down ? other - one : one - other) || x - y;
      });
    }

    /* the frame */
    const box = element("input", { id: "neuron-search", type: "search", autocomplete: "off", spellcheck: "false", "aria-describedby": "neuron-count", placeholder: `a word, a token, ${head.classes.length ? "a class, " : ""}or ${names[n - 1]}` });
    const count = element("p", { id: "neuron-count", role: "status", "aria-live": "polite" });
    const chooser = element("select", { id: "neuron-sort", "aria-label": "sort by" }, element("option", { value: "listed" }, "sort: what stands out"), ...columns.filter((c) => c[2]).map(([key]) => element("option", { value: key }, `sort: ${long[key]}`)));
    const titles = columns.map(([key, heading, value]) => element("span", { role: "columnheader", class: key }, value ? element("button", { type: "button", "data-key": key, title: `sort by ${long[key]}` }, heading) : heading));
    const all = element("div", { class: "all", role: "rowgroup" });
    const rows = element("div", { class: "rows", tabindex: "0", role: "grid", "aria-label": `all ${nouns(n)}`, "aria-rowcount": n }, all);
    const table = element("div", { class: "table" }, element("div", { class: "row titles", role: "row" }, ...titles), rows);
    place.append(element("div", { class: "search", role: "search" }, element("label", { for: "neuron-search" }, `All ${nouns(n)}: search, sort, open`), box, chooser, count), table);
    place.classList.add("ready");
    const panel = element("div", { class: "open-neuron" });

    const height = () => (rows.clientWidth < 560 ? 58 : 33);
    const top = (at) => at * height() + (open >= 0 && at > open ? panel.offsetHeight : 0);
    function draw() {
      const each = height(), extra = open >= 0 ? panel.offsetHeight : 0;
      all.style.height = `${order.length * each + extra}px`;
      const from = Math.max(0, Math.floor((rows.scrollTop - extra) / each) - 8);
      const to = Math.min(order.length, Math.ceil((rows.scrollTop + rows.clientHeight) / each) + 8);
      const shown = [];
      for (let at = from; at < to; at += 1) {
        const i = order[at];
        const row = element("div", { class: `row${at === active ? " active" : ""}`, role: "row", id: `neuron-row-${at}`, "data-at": at, "aria-rowindex": at + 1, "aria-expanded": String(at === open) });
        columns.forEach(([key, , , cell]) => row.append(element("span", { role: "gridcell", class: key }, cell(i))));
        row.style.top = `${top(at)}px`;
        row.style.height = `${each}px`;
        shown.push(row);
      }
      if (open >= 0) { panel.style.top = `${(open + 1) * each}px`; shown.push(panel); }
      all.replaceChildren(...shown);
      if (order.length) rows.setAttribute("aria-activedescendant", `neuron-row-${active}`); else rows.removeAttribute("aria-activedescendant");
    }
    function show(at) { // an opened neuron below its row; the same again closes it
      open = at === open ? -1 : at;
      active = at;
      if (open >= 0) { panel.replaceChildren(card(order[open])); draw(); }
      draw();
    }
    function reveal() {
      const at = top(active);
      if (at < rows.scrollTop) rows.scrollTop = at;
      else if (at + height() > rows.scrollTop + rows.clientHeight) rows.scrollTop = at + height() - rows.clientHeight;
      draw();
    }
    function find() {
      const [keep, says] = found(box.value);
      const every = Array.from({ length: n }, (_, i) => i);
      order = sorted(keep ? every.filter(keep) : every);
      count.textContent = keep ? `${order.length.toLocaleString("en")} of ${nouns(n)} ${says}` : nouns(n);
      open = -1;
      active = 0;
      rows.scrollTop = 0;
      titles.forEach((title, c) => {
        if (columns[c][0] === sort) title.setAttribute("aria-sort", down === (sort !== "name") ? "descending" : "ascending"); else title.removeAttribute("aria-sort");
      });
      chooser.value = sort;
      draw();
    }
    function sortBy(key) {
      down = key === sort && key !== "listed" ? !down : true;
      sort = key;
      find();
    }

    titles.forEach((title) => title.addEventListener("click", (event) => { const key = event.target.getAttribute("data-key"); if (key) sortBy(key); }));
    chooser.addEventListener("change", () => sortBy(chooser.value));
    box.addEventListener("input", find);
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { box.value = ""; find(); }
      if ((event.key === "Enter" || event.key === "ArrowDown") && order.length) {
        event.preventDefault();
        rows.focus();
        if (event.key === "Enter") show(0);
      }
    });
    rows.addEventListener("scroll", draw, { passive: true });
    all.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row && !String(window.getSelection())) show(Number(row.getAttribute("data-at")));
    });
    rows.addEventListener("keydown", (event) => {
      const page = Math.max(1, Math.floor(rows.clientHeight / height()) - 1);
      const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -n, End: n }[event.key];
      if (step !== undefined && order.length) { event.preventDefault(); active = Math.max(0, Math.min(order.length - 1, active + step)); reveal(); }
      if ((event.key === "Enter" || event.key === " ") && order.length) { event.preventDefault(); show(active); }
      if (event.key === "Escape" && open >= 0) { event.preventDefault(); show(open); }
    });
    document.addEventListener("keydown", (event) => {
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); box.focus(); }
    });
    new ResizeObserver(draw).observe(rows);
    new ResizeObserver(draw).observe(panel);
    find();
  }

  unpack().then(start).catch((error) => { place.append(element("p", { class: "note" }, `The table could not be unpacked (${error.message}).`)); });
})();
