/* Attention of many heads on canvases: the looks and controls of CircuitsVis' AttentionHeads, at a cost that does
   not grow with a chart element per cell. Values come as bytes, 255 for `largest`; `max` has the full colour. */
(function () {
  "use strict";
  if (window.NGL && window.NGL.attention) return;
  const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, 'DejaVu Sans', sans-serif";
  const MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
  const MASKED = [214, 210, 202];

  function make(tag, style, text) {
    const element = document.createElement(tag);
    element.style.cssText = style || "";
    if (text !== undefined) element.textContent = text;
    return element;
  }

  /* by byte: three numbers */
  function colours(data) {
    const anchors = data.anchors;
    const table = new Uint8ClampedArray(768);
    const step = 255 / (anchors.length - 1);
    for (let v = 0; v < 256; v++) {
      const shade = Math.min((v * data.largest) / data.max, 255);
      const i = Math.min(Math.floor(shade / step), anchors.length - 2);
      const t = shade / step - i;
      for (let c = 0; c < 3; c++) table[3 * v + c] = anchors[i][c] * (1 - t) + anchors[i + 1][c] * t;
    }
    return table;
  }

  /* [head][dest * size + src] */
  function unpack(data) {
    const bytes = Uint8Array.from(atob(data.values), (c) => c.charCodeAt(0));
    const heads = [];
    let at = 0;
    for (let h = 0; h < data.names.length; h++) {
      const full = new Uint8Array(data.size * data.size);
      for (let d = 0; d < data.size; d++) {
        const width = data.causal ? d + 1 : data.size;
        full.set(bytes.subarray(at, at + width), d * data.size);
        at += width;
      }
      heads.push(full);
    }
    return heads;
  }

  function picture(values, data, table) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = data.size;
    const context = canvas.getContext("2d");
    const image = context.createImageData(data.size, data.size);
    for (let i = 0; i < values.length; i++) {
      const masked = data.causal && i % data.size > Math.floor(i / data.size);
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = masked ? MASKED[c] : table[3 * values[i] + c];
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  const hue = (i, n, alpha) => `hsla(${Math.round((i / n) * 360)}, 70%, 40%, ${alpha || "100%"})`;

  function selector(root, data, pictures, show) {
    const title = make("h3", "font-size:15px;font-weight:600;margin:4px 0 8px", "Head Selector (hover to view, click to lock)");
    const grid = make("div", "display:grid;grid-template-columns:repeat(auto-fill,minmax(84px,1fr));gap:6px;margin-bottom:14px");
    let locked = 0;
    const buttons = data.names.map((name, i) => {
      const colour = hue(i, data.names.length);
      const button = make("button", `position:relative;padding:0;border:1px solid ${colour};background:#fff;cursor:pointer;display:block;line-height:0`);
      button.type = "button";
      button.setAttribute("aria-label", "head " + name);
      pictures[i].style.cssText = `width:100%;aspect-ratio:1/1;display:block;image-rendering:${data.size > 72 ? "auto" : "pixelated"}`;
      const badge = make("span", `position:absolute;top:0;right:0;padding:1px 4px;background:${colour};color:#fff;font:600 12px ${FONT};line-height:1.3`, name);
      button.append(pictures[i], badge);
      button.addEventListener("mouseenter", () => mark(i));
      button.addEventListener("focus", () => mark(i));
      button.addEventListener("mouseleave", () => mark(locked));
      button.addEventListener("click", () => { locked = i; mark(i); });
      grid.appendChild(button);
      return button;
    });
    function mark(i) {
      buttons.forEach((button, j) => {
        button.style.boxShadow = i === j ? `0 0 4px 3px ${hue(j, buttons.length, "60%")}` : "none";
        button.setAttribute("aria-pressed", String(j === locked));
      });
      show(i);
    }
    if (data.names.length > 1) root.append(title, grid);
    return () => mark(0);
  }

  /* The tokens as a text; hovering one colours the others by attention from or to it. */
  function strip(root, data, table, current) {
    const line = make("div", "margin:10px 0 4px;font-size:13px");
    const label = make("label", "", "Tokens (hover to focus, click to lock), coloured by attention ");
    const choice = make("select", "font:inherit");
    for (const [value, text] of [["from", "from the focused token to each"], ["to", "from each to the focused token"]]) {
      const option = make("option", "", text);
      option.value = value;
      choice.appendChild(option);
    }
    label.appendChild(choice);
    line.appendChild(label);
    const text = make("div", `font:13px/1.7 ${MONO};white-space:pre-wrap;overflow-wrap:anywhere;max-height:14em;overflow-y:auto`);
    let locked = null, focused = null;
    const spans = data.tokens.map((token, i) => {
      const span = make("span", "cursor:pointer;padding:1px 0;unicode-bidi:isolate", token);
      span.addEventListener("mouseenter", () => { focused = i; paint(); });
      span.addEventListener("mouseleave", () => { focused = locked; paint(); });
      span.addEventListener("click", () => { locked = locked === i ? null : i; focused = locked === null ? i : locked; paint(); });
      text.appendChild(span);
      if (token.startsWith("↵")) text.appendChild(document.createTextNode("\n"));
      return span;
    });
    function paint() {
      const values = current();
      spans.forEach((span, j) => {
        const v = focused === null ? 0 : values[choice.value === "from" ? focused * data.size + j : j * data.size + focused];
        span.style.background = focused === null ? "none" : `rgb(${table[3 * v]},${table[3 * v + 1]},${table[3 * v + 2]})`;
        span.style.color = (v * data.largest) / data.max > 225 ? "#fff" : "#04060a";
        span.style.outline = j === focused ? "2px solid #c8502f" : "none";
      });
    }
    choice.addEventListener("change", paint);
    root.append(line, text);
    return paint;
  }

  function zoomed(root, data, pictures, values) {
    const heading = make("h3", "font-size:15px;font-weight:600;margin:4px 0 6px");
    const frame = make("div", "position:relative;max-width:680px");
    const canvas = make("canvas", "display:block;width:100%;aspect-ratio:1/1;touch-action:pan-y");
    const tip = make("div", `position:absolute;display:none;background:#333;color:#fff;padding:6px 9px;border-radius:4px;font:12px/1.45 ${FONT};pointer-events:none;white-space:pre;z-index:2;max-width:95%;overflow:hidden`);
    tip.setAttribute("role", "status");
    frame.append(canvas, tip);
    root.append(heading, frame);
    let head = 0, cell = null, box = { x: 0, y: 0, side: 1 };

    function ticks(context, width) {
      const longest = Math.max(...data.tokens.map((token) => context.measureText(token).width));
      const margin = Math.ceil(Math.min(longest, width / 6)) + 30;
      box = { x: margin, y: 4, side: Math.max(width - margin - 6, 20) };
      const step = box.side / data.size, every = Math.ceil(9 / step);
      context.font = `${Math.max(8, Math.min(11, step * every))}px ${MONO}`;
      for (let i = 0; i < data.size; i += every) {
        const middle = ((i + 0.5) * box.side) / data.size;
        context.textAlign = "right";
        context.textBaseline = "middle";
        context.fillText(data.tokens[i], box.x - 5, box.y + middle, margin - 24);
        context.save();
        context.translate(box.x + middle, box.y + box.side + 5);
        context.rotate(-Math.PI / 2);
        context.fillText(data.tokens[i], 0, 0, margin - 24);
        context.restore();
      }
      context.font = `12px ${FONT}`;
      context.textAlign = "center";
      context.fillText("Source Token", box.x + box.side / 2, box.y + box.side + margin - 10);
      context.save();
      context.translate(9, box.y + box.side / 2);
      context.rotate(-Math.PI / 2);
      context.fillText("Destination Token", 0, 0);
      context.restore();
    }

    function draw() {
      const width = frame.clientWidth || 600, scale = window.devicePixelRatio || 1;
      canvas.width = canvas.height = Math.round(width * scale);
      const context = canvas.getContext("2d");
      context.scale(scale, scale);
      context.font = `11px ${MONO}`;
      context.fillStyle = "#1c2230";
      ticks(context, width);
      context.imageSmoothingEnabled = false;
      context.drawImage(pictures[head], box.x, box.y, box.side, box.side);
      context.strokeStyle = "#656c7b";
      context.strokeRect(box.x - 0.5, box.y - 0.5, box.side + 1, box.side + 1);
      if (cell) {
        const step = box.side / data.size;
        context.strokeStyle = "#c8502f";
        context.lineWidth = 1.5;
        context.strokeRect(box.x + cell.src * step, box.y, step, box.side);
        context.strokeRect(box.x, box.y + cell.dest * step, box.side, step);
      }
    }

    function point(event) {
      const at = canvas.getBoundingClientRect();
      const x = event.clientX - at.left - box.x, y = event.clientY - at.top - box.y;
      const src = Math.floor((x / box.side) * data.size), dest = Math.floor((y / box.side) * data.size);
      const inside = src >= 0 && dest >= 0 && src < data.size && dest < data.size;
      cell = inside ? { src, dest } : null;
      draw();
      tip.style.display = inside ? "block" : "none";
      if (!inside) return;
      const masked = data.causal && src > dest;
      const value = ((values[head][dest * data.size + src] / 255) * data.largest).toFixed(2);
      tip.textContent = masked ? "N/A: later than the destination" :
        `(${dest}, ${src})\nSrc: ${data.tokens[src]}\nDest: ${data.tokens[dest]}\nVal: ${value}`;
      const left = Math.min(x + box.x + 14, at.width - tip.offsetWidth - 4);
      tip.style.left = Math.max(left, 0) + "px";
      tip.style.top = Math.max(y + box.y - tip.offsetHeight - 12, 0) + "px";
    }

    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointerleave", () => { cell = null; tip.style.display = "none"; draw(); });
    if ("ResizeObserver" in window) {
      let before = 0;
      new ResizeObserver(() => {
        if (frame.clientWidth !== before) { before = frame.clientWidth; draw(); }
      }).observe(frame);
    }
    return {
      show(i) { head = i; heading.textContent = `${data.names[i]} Zoomed`; draw(); },
      current: () => values[head],
    };
  }

  window.NGL.attention = function (block, data) {
    const table = colours(data);
    const values = unpack(data);
    const pictures = values.map((head) => picture(head, data, table));
    const root = make("div", `font-family:${FONT};color:#1c2230;background:#fff;text-align:left`);
    block.appendChild(root);
    let zoom, paint;
    const start = selector(root, data, pictures.map((p) => {
      const copy = make("canvas");
      copy.width = copy.height = data.size;
      copy.getContext("2d").drawImage(p, 0, 0);
      return copy;
    }), (i) => { zoom.show(i); paint(); });
    zoom = zoomed(root, data, pictures, values);
    paint = strip(root, data, table, zoom.current);
    start();
  };
})();
