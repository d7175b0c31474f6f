/* A circuit: the model upwards, its edges by size and sign, a slider for how many, and a table beside them.
   Python has placed nodes and edges (x in heads, y in pixels); here they are drawn for the width that there is.
   Every text comes by textContent. */
(function () {
  "use strict";
  const SPACE = "http://www.w3.org/2000/svg";
  const LEFT = 30, LEAST = 46, WIDEST = 7, FINEST = 0.8; // pixels: layers' names; of a head; of edges
  const ROWS = 120, NUMBERS = 14; // rows of the table; numbers in the drawing
  const STYLE = `
.ngl-c{--paper:#fff;--ink:#1c2230;--mut:#656c7b;--line:#d6d2ca;--band:#f3f1ec;--node:#dae6fb;--pale:#faf9f7;--off:#9aa1ac;--up:#1f7a8c;--down:#c8502f;--acc:#2b62d9;
 background:var(--paper);color:var(--ink);font:13px/1.45 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;padding:8px;border-radius:6px;text-align:left}
.ngl-c[data-theme=dark]{--paper:#1a1d25;--ink:#e9eaef;--mut:#99a1b1;--line:#3a4150;--band:#232732;--node:#283144;--pale:#12141a;--off:#727a89;--up:#4fb3c4;--down:#f0805c;--acc:#7aa2ff}
.ngl-c{container-type:inline-size}
@container (max-width:460px){.ngl-c .frame{display:none}.ngl-c .side{flex-basis:100%;max-width:none}.ngl-c .scroll{max-height:none}}
.ngl-c *{box-sizing:border-box}
.ngl-c .bar{display:flex;flex-wrap:wrap;align-items:center;gap:6px 14px;margin:2px 0}
.ngl-c label{display:inline-flex;flex-wrap:wrap;align-items:center;gap:6px;color:var(--ink)}
.ngl-c input[type=range]{width:150px;accent-color:var(--up)}
.ngl-c input[type=number]{width:5.2em;color:inherit;background:var(--paper);border:1px solid var(--line);border-radius:4px;padding:2px 4px}
.ngl-c .said{margin:4px 0 6px;min-height:1.45em;font-variant-numeric:tabular-nums}
.ngl-c .said b{font-weight:650}
.ngl-c .strip{display:flex;flex-wrap:wrap;gap:3px;max-height:108px;overflow-y:auto;padding:3px;margin:0 -3px 4px}
.ngl-c .strip button{font:12px/1.3 ui-monospace,Menlo,Consolas,monospace;color:var(--ink);border:1px solid var(--line);border-radius:4px;padding:2px 5px;cursor:pointer;white-space:pre;background:var(--paper)}
.ngl-c .strip button[aria-checked=true]{border-color:var(--acc);box-shadow:0 0 0 1px var(--acc)}
.ngl-c .both{display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start}
.ngl-c .frame{flex:1 1 340px;min-width:0;max-width:900px;overflow-x:auto}
.ngl-c svg{display:block;touch-action:pan-x pan-y}
.ngl-c svg text{fill:var(--ink);font:12px system-ui,sans-serif;text-anchor:middle;pointer-events:none}
.ngl-c svg .layer{fill:var(--mut);font-size:11px;text-anchor:start}
.ngl-c svg .part{fill:var(--mut);font-size:10px}
.ngl-c svg .number{font-size:11px;font-weight:600;paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.ngl-c .band{fill:var(--band)}
.ngl-c .edge{fill:none;opacity:.8;pointer-events:none}
.ngl-c .hit{fill:none;stroke:transparent;stroke-width:9;pointer-events:stroke}
.ngl-c .none{stroke:var(--off)}.ngl-c .up{stroke:var(--up)}.ngl-c .down{stroke:var(--down)}
.ngl-c .number.none{stroke:var(--paper)}.ngl-c .number.up{fill:var(--up);stroke:var(--paper)}.ngl-c .number.down{fill:var(--down);stroke:var(--paper)}
.ngl-c td.up{color:var(--up)}.ngl-c td.down{color:var(--down)}
.ngl-c .node{cursor:pointer;outline:none}
.ngl-c .node rect{fill:var(--node);stroke:var(--mut)}
.ngl-c .node.pale rect{fill:var(--pale);stroke:var(--line)}.ngl-c .node.pale text{fill:var(--off)}
.ngl-c .node.chosen rect{stroke:var(--acc);stroke-width:2.5}
.ngl-c .node:focus-visible rect{stroke:var(--acc);stroke-width:3}
.ngl-c .looks .edge:not(.on){opacity:.07}.ngl-c .looks .node:not(.on){opacity:.5}.ngl-c .edge.on{opacity:1}
.ngl-c .side{flex:1 1 230px;max-width:420px;min-width:0}
.ngl-c .side h4{font-size:13px;margin:2px 0 4px;font-weight:650}
.ngl-c .scroll{overflow:auto;max-height:440px}
.ngl-c table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;color:inherit;background:none;font-size:13px;margin:0}
.ngl-c th,.ngl-c td{border:0;border-top:1px solid var(--line);padding:3px 8px 3px 0;text-align:left;font-weight:400;vertical-align:top;color:inherit;background:none;white-space:nowrap}
.ngl-c th[scope=row]{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px}
.ngl-c td.v{text-align:right;font-weight:600}.ngl-c td.more{color:var(--mut);white-space:normal;font-size:12px}
.ngl-c thead th{white-space:normal;position:sticky;top:0;background:var(--paper);border-top:0;color:var(--mut);font-size:12px}
.ngl-c thead th.v{text-align:right}
.ngl-c tr.on th,.ngl-c tr.on td{background:var(--band)}
.ngl-c .key,.ngl-c .note{color:var(--mut);font-size:12px;margin:4px 0 0}
.ngl-c .key i{display:inline-block;width:18px;height:4px;border-radius:2px;margin:0 5px 2px 0}.ngl-c .key span{margin-right:14px;white-space:nowrap}`;

  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const shape = (tag, name, about = {}) => {
    const element = document.createElementNS(SPACE, tag);
    if (name) element.setAttribute("class", name);
    for (const key in about) element.setAttribute(key, about[key]);
    return element;
  };

  /* The theme of the notebook, where it says one, else the system's. */
  function themeOf() {
    const { classList, dataset } = document.body;
    if (dataset.jpThemeLight) return dataset.jpThemeLight === "false" ? "dark" : "light";
    if (classList.contains("vscode-dark") || classList.contains("vscode-high-contrast")) return "dark";
    if (classList.contains("vscode-light")) return "light";
    return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  function followTheme(root) {
    const set = () => { root.dataset.theme = themeOf(); };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", set);
    new MutationObserver(set).observe(document.body, { attributes: true, attributeFilter: ["class", "data-jp-theme-light"] });
    set();
  }

  /* Three digits, a sign where it means something; "–" for no number. */
  function numberText(value, signed) {
    if (value === null) return "–";
    const size = Math.abs(value);
    const digits = size === 0 ? "0" : size >= 1e6 || size < 1e-4 ? size.toExponential(1) : size >= 1000 ? size.toFixed(0) : String(Number(size.toPrecision(3)));
    return (value < 0 ? "−" : signed && value > 0 ? "+" : "") + digits;
  }

  /* What of the data is shown: state is {n, circuit: whether it is the circuit, pos, node, pinned}. */
  function modelOf(data) {
    const n = data.curve ? data.curve.length - 1 : data.values.length;
    const name = ([sender, receiver, part]) => `${data.nodes[sender]} → ${data.nodes[receiver]}${part ? "." + part : ""}`;
    const value = (edge, state) => data.values[edge][state.pos];
    const size = (edge, state) => Math.abs(value(edge, state) || 0);
    const largest = data.values.reduce((most, row) => row.reduce((m, v) => Math.max(m, Math.abs(v || 0)), most), 0) || 1;
    return {
      n, value,
      names: data.edges.map(name),
      tone: (edge, state) => (!value(edge, state) ? "none" : data.signed && (value(edge, state) < 0) !== data.falls_helps ? "down" : "up"),
      width: (edge, state, many) => FINEST + (WIDEST * Math.min(1, Math.sqrt(60 / Math.max(60, many))) - FINEST) * Math.sqrt(size(edge, state) / largest),
      /* The edges that are shown, those that matter most first. */
      shown(state) {
        if (data.curve && state.circuit) return data.circuit;
        const all = data.edges.map((_, edge) => edge);
        if (data.curve) return all.slice(0, state.n); // Python put them in the order of their rank
        return all.filter((edge) => size(edge, state) > 0).sort((a, b) => size(b, state) - size(a, state) || a - b).slice(0, state.n);
      },
      touches: (edge, node) => data.edges[edge][0] === node || data.edges[edge][1] === node,
    };
  }

  /* Numbers of edges that the slider stops at: each up to 30, then in steps of 6 percent. */
  function stopsOf(n) {
    const stops = [];
    for (let i = 1; i < n; i = i < 30 ? i + 1 : Math.ceil(i * 1.06)) stops.push(i);
    return [...stops, n];
  }

  function controlsOf(data, model, state, change) {
    const bar = make("div", "bar"), stops = stopsOf(model.n);
    const radios = [];
    if (data.curve) {
      const group = "ngl-c-" + Math.random().toString(36).slice(2);
      for (const [circuit, text] of [[true, `the circuit (${data.circuit.length} edges)`], [false, "the first by rank:"]]) {
        const label = make("label"), radio = make("input");
        Object.assign(radio, { type: "radio", name: group });
        radio.addEventListener("change", () => change({ circuit }));
        label.append(radio, text);
        bar.append(label);
        radios.push([radio, circuit]);
      }
    }
    const label = make("label"), range = make("input"), field = make("input");
    Object.assign(range, { type: "range", min: 0, max: stops.length - 1, step: 1 });
    Object.assign(field, { type: "number", min: 1, max: model.n, step: 1 });
    range.setAttribute("aria-label", "how many edges");
    field.setAttribute("aria-label", "number of edges");
    range.addEventListener("input", () => change({ n: stops[range.value], circuit: false }));
    field.addEventListener("change", () => {
      const n = Math.round(Number(field.value));
      change(n >= 1 && n <= model.n ? { n, circuit: false } : {});
    });
    label.append(data.curve ? "" : "the largest", range, field, `of ${data.total} edges`);
    bar.append(label);
    return {
      element: bar,
      update() {
        radios.forEach(([radio, circuit]) => { radio.checked = circuit === state.circuit; });
        range.value = stops.findIndex((stop) => stop >= state.n);
        range.setAttribute("aria-valuetext", `${state.n} edges`);
        field.value = state.n;
      },
    };
  }

  /* The tokens of the prompt: one is chosen, and the darker, the more the edges do there. */
  function stripOf(data, state, change) {
    const strip = make("div", "strip");
    strip.setAttribute("role", "radiogroup");
    strip.setAttribute("aria-label", "position");
    const totals = data.tokens.map((_, pos) => data.values.reduce((sum, row) => sum + Math.abs(row[pos] || 0), 0));
    const most = Math.max(...totals, 1e-30);
    const buttons = data.tokens.map((token, pos) => {
      const button = make("button", "", token);
      button.type = "button";
      button.setAttribute("role", "radio");
      button.setAttribute("aria-label", `position ${pos}, ${token}`);
      button.title = `position ${pos}: the effects' sizes add up to ${numberText(totals[pos])}`;
      button.style.background = `color-mix(in srgb, var(--off) ${Math.round((60 * totals[pos]) / most)}%, var(--paper))`;
      button.addEventListener("click", () => change({ pos }));
      strip.append(button);
      return button;
    });
    strip.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      change({ pos: (state.pos + step + buttons.length) % buttons.length });
      buttons[state.pos].focus();
    });
    return {
      element: strip,
      update: () => buttons.forEach((button, pos) => {
        button.setAttribute("aria-checked", String(pos === state.pos));
        button.tabIndex = pos === state.pos ? 0 : -1;
      }),
    };
  }

  const curveThrough = (numbers, across) => {
    let path = "";
    for (let i = 0; i < numbers.length; i += 4) {
      const [x, y, toX, toY] = [across(numbers[i]), numbers[i + 1], across(numbers[i + 2]), numbers[i + 3]];
      const middle = (y + toY) / 2;
      path += `${i ? "L" : "M"}${x.toFixed(1)},${y}C${x.toFixed(1)},${middle} ${toX.toFixed(1)},${middle} ${toX.toFixed(1)},${toY}`;
    }
    return path;
  };

  /* Where an arrow key leads among the nodes: along a row, or to the nearest of the next. */
  function neighbour(data, node, key) {
    const x = (i) => data.boxes[i][0];
    const step = { ArrowUp: 1, ArrowDown: -1 }[key] || 0;
    const row = data.nodes.map((_, i) => i).filter((i) => data.row[i] === data.row[node] + step);
    if (step) return row.length ? row.reduce((a, b) => (Math.abs(x(b) - x(node)) < Math.abs(x(a) - x(node)) ? b : a)) : node;
    const to = row.indexOf(node) + { ArrowRight: 1, ArrowLeft: -1 }[key];
    return row[to] === undefined ? node : row[to];
  }

  /* The drawing; what happens to a node or an edge goes to `look` (hovered or focused) and `pin`. */
  function drawingOf(data, model, state, { look, pin, point }) {
    const frame = make("div", "frame"), svg = shape("svg", "", { role: "group", "aria-label": "the circuit in its model; arrow keys move among nodes" });
    frame.append(svg);
    const [low, high] = data.across;
    let width = 0, nodes = [], paths = new Map();
    const across = (x) => LEFT + ((x - low) / (high - low)) * (width - LEFT - 4);

    function node(i) {
      const [x, y, wide, tall] = data.boxes[i], head = data.nodes[i].includes(".");
      const half = (across(x + wide / 2) - across(x - wide / 2)) / 2;
      const group = shape("g", "node", { role: "button", tabindex: i ? -1 : 0 });
      group.append(shape("rect", "", { x: across(x) - half, y: y - tall / 2, width: 2 * half, height: tall, rx: 5 }));
      const text = shape("text", "", { x: across(x), y: y + 4 - (head ? 0.16 * tall : 0) });
      text.textContent = data.nodes[i];
      group.append(text);
      group.addEventListener("pointerenter", () => look(i));
      group.addEventListener("pointerleave", () => look(null));
      group.addEventListener("focus", () => { if (group.matches(":focus-visible")) look(i); });
      group.addEventListener("blur", () => look(null));
      group.addEventListener("click", (event) => { event.stopPropagation(); pin(i); });
      group.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(i); }
        if (event.key === "Escape") pin(null);
        if (!event.key.startsWith("Arrow")) return;
        event.preventDefault();
        const to = neighbour(data, i, event.key);
        nodes.forEach((one, j) => one.setAttribute("tabindex", j === to ? 0 : -1));
        nodes[to].focus();
      });
      return group;
    }

    function edgesOf(shown) {
      const ordered = shown.slice().reverse(); // the strongest on top
      paths = new Map();
      const lines = ordered.map((edge) => {
        const path = shape("path", `edge ${model.tone(edge, state)}`, {
          d: curveThrough(data.ways[edge], across), "stroke-width": model.width(edge, state, shown.length).toFixed(2),
        });
        paths.set(edge, path);
        return path;
      });
      const hits = ordered.map((edge) => {
        const hit = shape("path", "hit", { d: path(edge) });
        hit.addEventListener("pointerenter", () => point(edge));
        hit.addEventListener("pointerleave", () => point(null));
        return hit;
      });
      return [...lines, ...hits];
    }
    const path = (edge) => paths.get(edge).getAttribute("d");

    function bands() {
      const layers = [];
      data.nodes.forEach((name, i) => {
        const found = /^(\d+)\.0$/.exec(name);
        if (!found) return;
        const mlp = data.boxes[data.nodes.indexOf("mlp" + found[1])], [, y, , tall] = data.boxes[i];
        const [top, bottom] = [mlp[1] - mlp[3] / 2 - 16, y + tall / 2 + 16];
        layers.push(shape("rect", "band", { x: 0, y: top, width, height: bottom - top }));
        const label = shape("text", "layer", { x: 3, y: y + 4 });
        label.textContent = "L" + found[1];
        layers.push(label);
      });
      return layers;
    }

    function parts(shown) {
      const seen = new Map(shown.filter((edge) => data.edges[edge][2]).map((edge) => [data.edges[edge].slice(1).join(), edge]));
      return [...seen.values()].map((edge) => {
        const [, receiver, part] = data.edges[edge], [x, y, , tall] = data.boxes[receiver];
        const letter = shape("text", "part", { x: across(x + data.ports[part]), y: y + tall / 2 - 4 });
        letter.textContent = part;
        return letter;
      });
    }

    /* Numbers at the far ends of a node's edges, as many as do not lie over each other. */
    function numbers(shown) {
      const placed = [], texts = [];
      for (const edge of shown.filter((one) => model.touches(one, state.node)).slice(0, NUMBERS)) {
        const out = data.edges[edge][0] === state.node, way = data.ways[edge];
        const [x, y] = out ? [across(way[way.length - 2]), way[way.length - 1] + 13] : [across(way[0]), way[1] - 5];
        const said = numberText(model.value(edge, state), data.signed), half = 3.6 * said.length;
        const at = Math.min(Math.max(x, half + 2), width - half - 2);
        if (placed.some(([px, py, ph]) => Math.abs(px - at) < ph + half && Math.abs(py - y) < 12)) continue;
        placed.push([at, y, half]);
        const text = shape("text", `number ${model.tone(edge, state)}`, { x: at, y });
        text.textContent = said;
        texts.push(text);
      }
      return texts;
    }

    function mark(shown, group) {
      const on = state.node === null ? shown : shown.filter((edge) => model.touches(edge, state.node));
      const near = new Set(on.flatMap((edge) => data.edges[edge].slice(0, 2)).concat(state.node === null ? [] : [state.node]));
      svg.classList.toggle("looks", state.node !== null || state.edge !== null);
      for (const [edge, line] of paths) line.classList.toggle("on", state.edge === null ? state.node !== null && on.includes(edge) : edge === state.edge);
      const ends = state.edge === null ? near : new Set(data.edges[state.edge].slice(0, 2));
      const used = new Set(shown.flatMap((edge) => data.edges[edge].slice(0, 2)));
      nodes.forEach((one, i) => {
        one.classList.toggle("on", ends.has(i));
        one.classList.toggle("pale", !used.has(i));
        one.classList.toggle("chosen", i === state.node || i === state.pinned);
        one.setAttribute("aria-pressed", String(i === state.pinned));
        const count = (end) => shown.filter((edge) => data.edges[edge][end] === i).length;
        one.setAttribute("aria-label", `${data.nodes[i]}: reads ${count(1)} edges, is read by ${count(0)}`);
      });
      group.replaceChildren(...(state.node === null || state.edge !== null ? [] : numbers(shown)));
    }

    const layers = ["bands", "edges", "nodes", "parts", "numbers"].map(() => shape("g"));
    svg.append(...layers);
    svg.addEventListener("click", () => pin(null));
    return {
      element: frame,
      /* Everything anew: another width, other edges. */
      update(shown) {
        const room = Math.max(frame.clientWidth || 340, LEFT + Math.ceil((high - low) * LEAST));
        if (room !== width) {
          width = room;
          for (const [name, size] of [["width", width], ["height", data.height]]) svg.setAttribute(name, size);
          nodes = data.nodes.map((_, i) => node(i));
          layers[0].replaceChildren(...bands());
          layers[2].replaceChildren(...nodes);
        }
        layers[1].replaceChildren(...edgesOf(shown));
        layers[3].replaceChildren(...parts(shown));
        mark(shown, layers[4]);
      },
      mark: (shown) => mark(shown, layers[4]),
    };
  }

  function tableOf(data, model, state, point) {
    const side = make("div", "side"), heading = make("h4"), scroll = make("div", "scroll"), table = make("table"), note = make("p", "note");
    scroll.tabIndex = 0;
    scroll.setAttribute("aria-label", "the edges, those that matter most first");
    scroll.append(table);
    side.append(heading, scroll, note);
    const more = data.said.length > 0 ? "" : data.ranges.length > 0 ? "95% interval" : null;
    let rows = new Map();

    function row(edge) {
      const line = make("tr"), name = make("th", "", model.names[edge]);
      name.scope = "row";
      line.append(name, make("td", `v ${data.signed ? model.tone(edge, state) : ""}`, numberText(model.value(edge, state), data.signed)));
      if (data.said.length) line.append(make("td", "more", data.said[edge]));
      else if (more) line.append(make("td", "more", data.ranges[edge][state.pos].map((end) => numberText(end, data.signed)).join(" to ")));
      line.addEventListener("pointerenter", () => point(edge));
      line.addEventListener("pointerleave", () => point(null));
      rows.set(edge, line);
      return line;
    }
    return {
      element: side,
      update(shown) {
        const mine = state.node === null ? shown : shown.filter((edge) => model.touches(edge, state.node));
        const name = state.node === null ? "" : data.nodes[state.node];
        const pinned = state.pinned === state.node && name ? ", pinned" : "";
        heading.textContent = name ? `Edges of ${name}${pinned}: ${mine.length}` : `Edges: ${mine.length}`;
        const head = make("thead"), top = make("tr"), body = make("tbody");
        for (const [text, look] of [["edge", ""], [data.value, "v"], ...(more === null ? [] : [[more, ""]])]) {
          const cell = make("th", look, text);
          cell.scope = "col";
          top.append(cell);
        }
        head.append(top);
        rows = new Map();
        body.append(...mine.slice(0, ROWS).map(row));
        table.replaceChildren(head, body);
        note.textContent = mine.length > ROWS ? `and ${mine.length - ROWS} more` : "";
      },
      mark: () => rows.forEach((line, edge) => line.classList.toggle("on", edge === state.edge)),
    };
  }

  /* What is shown, in a sentence: how many edges, how faithful they are, or of which position. */
  function sentenceOf(data, state, n) {
    if (data.curve) {
      const faithful = state.circuit ? data.faithfulness : data.curve[state.n];
      const which = state.circuit ? `The circuit: ${data.circuit.length} of ${data.total} edges` : `The first ${state.n} of ${data.total} edges`;
      return [`${which}, faithfulness `, faithful === null ? "–" : faithful.toFixed(3).replace("-", "−")];
    }
    const where = data.tokens.length ? `, changed at position ${state.pos} alone, ` : "";
    const which = n < state.n ? `${n} of ${data.total} effects ${n === 1 ? "is" : "are"} not 0` : `The ${n} largest of ${data.total} effects`;
    return [`${which}${where}`, data.tokens.length ? data.tokens[state.pos] : ""];
  }

  function keyOf(data) {
    const key = make("p", "key");
    for (const [tone, text] of data.legend) {
      const entry = make("span"), line = make("i");
      line.style.background = `var(--${tone})`;
      entry.append(line, text);
      key.append(entry);
    }
    key.append("A click on a node pins its edges; q, k, v: what a head reads as query, key, value.");
    return key;
  }

  window.NGL.circuit = function (block, data) {
    const root = make("div", "ngl-c"), model = modelOf(data);
    const state = { n: Math.min(data.first, model.n), circuit: Boolean(data.curve), pos: data.pos || 0, node: null, pinned: null, edge: null };
    const said = make("p", "said"), both = make("div", "both");
    said.setAttribute("role", "status");
    let shown = [];
    const mark = () => { drawing.mark(shown); table.mark(); };
    const change = (fields) => { Object.assign(state, fields); update(); };
    const see = (node) => { state.node = node === null ? state.pinned : node; table.update(shown); mark(); };
    const point = (edge) => { state.edge = edge; mark(); };
    const pin = (node) => { state.pinned = node === state.pinned ? null : node; see(node); };
    const controls = controlsOf(data, model, state, change);
    const strip = data.tokens.length ? stripOf(data, state, change) : null;
    const drawing = drawingOf(data, model, state, { look: see, pin, point });
    const table = tableOf(data, model, state, point);

    function update() {
      shown = model.shown(state);
      controls.update();
      if (strip) strip.update();
      const [words, number] = sentenceOf(data, state, shown.length);
      said.replaceChildren(words, make("b", "", number));
      drawing.update(shown);
      table.update(shown);
      mark();
    }
    both.append(drawing.element, table.element);
    root.append(make("style", "", STYLE), controls.element, ...(strip ? [strip.element] : []), said, both, keyOf(data));
    block.append(root);
    followTheme(root);
    update();
    let before = drawing.element.clientWidth;
    new ResizeObserver(() => {
      if (drawing.element.clientWidth === before) return;
      before = drawing.element.clientWidth;
      drawing.update(shown);
    }).observe(drawing.element);
  };
})();
