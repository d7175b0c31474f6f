/* A matrix on a canvas: cells by colour, read by pointer or arrow keys, chosen by click or Enter. One element serves
   attention, edges and sweeps; a canvas costs the same for ten cells and ten thousand. */
import { elem, setText } from "./draw.js";

const MATRIX_FONT = "ui-monospace, SFMono-Regular, Menlo, monospace";

function parsedColour(text) {
  const hex = /^#([0-9a-f]{3}|[0-9a-f]{6})$/i.exec(text.trim())?.[1] ?? "888888";
  const six = hex.length === 3 ? Array.from(hex, (c) => c + c).join("") : hex;
  return [0, 2, 4].map((i) => parseInt(six.slice(i, i + 2), 16));
}

function paletteOf(element) {
  const style = getComputedStyle(element);
  const colour = (name) => parsedColour(style.getPropertyValue(name));
  const parsed = ["cell", "acc", "pos", "neg"].map((name) => [name, colour(`--${name}`)]);
  const written = ["mut", "ink", "on", "deep"].map((name) => [name, style.getPropertyValue(`--${name}`)]);
  return Object.fromEntries([...parsed, ...written]);
}

function mixed(a, b, share) {
  return `rgb(${a.map((value, i) => Math.round(value + (b[i] - value) * share)).join(",")})`;
}

function cellColour(palette, value, largest, diverging) {
  const part = Math.min(Math.abs(value) / largest, 1);
  const share = diverging ? part ** 0.6 * 0.8 : part * 0.92;
  return mixed(palette.cell, diverging ? (value < 0 ? palette.neg : palette.pos) : palette.acc, share);
}

/* createMatrix({label, read(row, column) -> text, choose(row, column)}) -> {element, update(data)}
   data = {rows: [text], columns: [text], value(row, column) -> number | null, largest, diverging, fallsHelps: below zero is what helps, text(row, column), numbers,
           about: what all of that depends on, compared by identity: while it stays, nothing is drawn anew} */
export function createMatrix({ label, read, choose }) {
  const canvas = elem("canvas", { class: "matrix", tabindex: 0, role: "application", "aria-roledescription": "matrix", "aria-label": label });
  const readout = elem("p", { class: "readout", "aria-live": "polite", text: " " });
  const scroll = elem("div", { class: "scroll" }, canvas);
  const element = elem("div", { class: "matrix-block" }, scroll, readout);
  const view = { data: null, about: [], box: null, cursor: null, canvas, scroll };

  function show(cursor) {
    view.cursor = cursor;
    drawMatrix(view);
    const value = cursor && view.data?.value(cursor.row, cursor.column);
    setText(readout, cursor && value !== null ? read(cursor.row, cursor.column) || " " : " ");
  }
  function at(event) {
    if (!view.box || !view.data) return null;
    const frame = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - frame.left - view.box.left) / view.box.step);
    const row = Math.floor((event.clientY - frame.top - view.box.top) / view.box.high);
    const inside = row >= 0 && column >= 0 && row < view.data.rows.length && column < view.data.columns.length;
    return inside && view.data.value(row, column) !== null ? { row, column } : null;
  }
  canvas.addEventListener("pointermove", (event) => show(at(event)));
  canvas.addEventListener("pointerleave", () => show(null));
  canvas.addEventListener("click", (event) => {
    const cell = at(event);
    if (cell) { show(cell); choose(cell.row, cell.column); }
  });
  canvas.addEventListener("keydown", (event) => matrixKey(event, view, show, choose));
  canvas.addEventListener("focus", () => { if (!view.cursor && canvas.matches(":focus-visible")) show(firstCell(view.data)); });
  let width = 0;
  const observer = new ResizeObserver(() => {
    if (scroll.clientWidth !== width) { width = scroll.clientWidth; drawMatrix(view); }
  });
  observer.observe(scroll);
  return {
    element,
    update(data) {
      const about = [...data.about, canvas.closest("[data-theme]")?.getAttribute("data-theme")];
      if (about.every((one, i) => one === view.about[i])) return;
      view.about = about;
      const stays = view.cursor && data.rows.length > view.cursor.row && data.columns.length > view.cursor.column;
      view.data = data;
      show(stays ? view.cursor : null);
    },
    redraw: () => drawMatrix(view),
  };
}

function firstCell(data) {
  for (let row = (data?.rows.length ?? 0) - 1; row >= 0; row--) {
    for (let column = 0; column < data.columns.length; column++) if (data.value(row, column) !== null) return { row, column };
  }
  return null;
}

function matrixKey(event, view, show, choose) {
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  if (event.key === "Escape") return show(null);
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    if (view.cursor) choose(view.cursor.row, view.cursor.column);
    return undefined;
  }
  if (!step || !view.data) return undefined;
  event.preventDefault();
  let { row, column } = view.cursor ?? firstCell(view.data) ?? { row: 0, column: 0 };
  if (!view.cursor) return show({ row, column });
  do { row += step[0]; column += step[1]; }
  while (view.data.rows[row] !== undefined && view.data.columns[column] !== undefined && view.data.value(row, column) === null);
  if (view.data.rows[row] !== undefined && view.data.columns[column] !== undefined) show({ row, column });
  return undefined;
}

function measured(context, view) {
  const { rows, columns } = view.data;
  context.font = `12px ${MATRIX_FONT}`;
  const widest = (texts) => texts.reduce((most, text) => Math.max(most, context.measureText(text).width), 0);
  const left = Math.min(Math.ceil(widest(rows)) + 10, 96);
  const turned = widest(columns) > 18;
  const top = turned ? Math.min(Math.ceil(widest(columns)) + 8, 70) : 20;
  const room = view.scroll.clientWidth - left - 2;
  const least = view.data.text ? 24 : columns.length > 40 ? 5 : 13;
  const step = Math.max(least, Math.min(room / columns.length, view.data.text ? 150 : view.data.numbers ? 64 : 34));
  const high = view.data.text ? 24 : Math.min(step, 24);
  return { left, top, step, high, turned, width: Math.ceil(left + step * columns.length + 2), height: Math.ceil(top + high * rows.length + 2) };
}

function drawMatrix(view) {
  const { canvas, data } = view;
  if (!data || !canvas.isConnected || !view.scroll.clientWidth) return;
  const context = canvas.getContext("2d");
  const box = view.box = measured(context, view);
  const ratio = window.devicePixelRatio || 1;
  const [wide, tall] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
  if (canvas.width !== wide || canvas.height !== tall) {
    Object.assign(canvas, { width: wide, height: tall });
    canvas.style.width = `${box.width}px`;
    canvas.style.height = `${box.height}px`;
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, box.width, box.height);
  const palette = paletteOf(canvas);
  drawLabels(context, view, palette);
  drawCells(context, view, palette);
  if (view.cursor) {
    const { row, column } = view.cursor;
    context.strokeStyle = palette.ink;
    context.lineWidth = 2;
    context.strokeRect(box.left + column * box.step, box.top + row * box.high, box.step, box.high);
  }
}

function drawLabels(context, { data, box, cursor }, palette) {
  context.font = `12px ${MATRIX_FONT}`;
  context.textBaseline = "middle";
  context.textAlign = "right";
  const everyRow = Math.ceil(11 / box.high), everyColumn = Math.ceil(11 / box.step);
  data.rows.forEach((text, row) => {
    const now = cursor?.row === row;
    if (row % everyRow && !now) return;
    context.fillStyle = now ? palette.ink : palette.mut;
    context.fillText(text, box.left - 6, box.top + (row + 0.5) * box.high, box.left - 8);
  });
  data.columns.forEach((text, column) => {
    const now = cursor?.column === column;
    if (column % everyColumn && !now) return;
    context.fillStyle = now ? palette.ink : palette.mut;
    context.save();
    context.translate(box.left + (column + 0.5) * box.step, box.top - 5);
    if (box.turned) context.rotate(-Math.PI / 2);
    context.textAlign = box.turned ? "left" : "center";
    context.fillText(text, 0, box.turned ? 0 : -5, box.turned ? box.top - 8 : box.step + 8);
    context.restore();
  });
}

function drawCells(context, { data, box }, palette) {
  const gap = box.step >= 12 ? 1 : 0.5;
  context.textAlign = "center";
  context.font = `13px ${MATRIX_FONT}`;
  for (let row = 0; row < data.rows.length; row++) {
    for (let column = 0; column < data.columns.length; column++) {
      const value = data.value(row, column);
      if (value === null) continue;
      const [x, y] = [box.left + column * box.step + gap, box.top + row * box.high + gap];
      context.fillStyle = Number.isNaN(value) ? mixed(palette.cell, palette.cell, 0) : cellColour(palette, data.fallsHelps ? -value : value, data.largest, data.diverging);
      context.beginPath();
      context.roundRect(x, y, box.step - 2 * gap, box.high - 2 * gap, box.step >= 12 ? 3 : 1);
      context.fill();
      const text = data.text ? data.text(row, column) : data.numbers && box.step >= 34 && !Number.isNaN(value) ? data.numbers(value) : null;
      if (text === null) continue;
      context.fillStyle = Math.abs(value) / data.largest > 0.68 ? (data.diverging ? palette.deep : palette.on) : palette.ink;
      context.fillText(text, x + box.step / 2 - gap, y + box.high / 2, box.step - 3);
    }
  }
}
