
/* Plots: small SVG, drawn from the rows on the page. */
const COLOURS = 10;
const HEAT_ROWS = 40;
const MARKS = ["circle", "square", "triangle", "diamond", "cross"];

/* Every method has a look of its own, a colour with a mark, filled or hollow: 100 of them, then they repeat. The methods
   that are best most often come first, so that their colours differ. */
const placeOf = new Map();

function mark(kind, x, y, attributes) {
  const r = 4;
  const shapes = {
    square: [[-r, -r], [r, -r], [r, r], [-r, r]],
    triangle: [[0, -1.25 * r], [1.15 * r, 0.9 * r], [-1.15 * r, 0.9 * r]],
    diamond: [[0, -1.3 * r], [1.3 * r, 0], [0, 1.3 * r], [-1.3 * r, 0]],
    cross: [[-r, -r / 3], [-r / 3, -r / 3], [-r / 3, -r], [r / 3, -r], [r / 3, -r / 3], [r, -r / 3],
      [r, r / 3], [r / 3, r / 3], [r / 3, r], [-r / 3, r], [-r / 3, r / 3], [-r, r / 3]],
  };
  if (kind === "circle") return s("circle", { cx: x, cy: y, r, ...attributes });
  return s("polygon", { points: shapes[kind].map(([a, b]) => `${x + a},${y + b}`).join(" "), ...attributes });
}

const looks = (method) => {
  const i = placeOf.get(method) || 0;
  const hollow = Math.floor(i / (COLOURS * MARKS.length)) % 2 ? " hollow" : "";
  return { colour: `c${i % COLOURS}${hollow}`, kind: MARKS[(i + Math.floor(i / COLOURS)) % MARKS.length] };
};

function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const base = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * base).find((f) => f >= raw * 0.999);
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) found.push(Number(v.toPrecision(12)));
  return found;
}

/* A frame with axes. `x`, `y`: {low, high, log, ticks, text, label}. Returns the drawing and the two scales. */
function frame(width, height, x, y, label, margin) {
  const m = { left: 44, right: 14, top: 12, bottom: 36, ...margin };
  const along = (axis, v) => {
    const f = axis.log ? Math.log : (u) => u;
    return (f(v) - f(axis.low)) / (f(axis.high) - f(axis.low) || 1);
  };
  const px = (v) => m.left + along(x, v) * (width - m.left - m.right);
  const py = (v) => height - m.bottom - along(y, v) * (height - m.top - m.bottom);
  const root = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "plot" });
  for (const v of y.ticks) {
    root.append(s("line", { class: "grid", x1: m.left, x2: width - m.right, y1: py(v), y2: py(v) }));
    root.append(s("text", { class: "tick", x: m.left - 6, y: py(v) + 4, "text-anchor": "end" }, y.text(v)));
  }
  for (const v of x.ticks) {
    root.append(s("line", { class: "notch", x1: px(v), x2: px(v), y1: height - m.bottom, y2: height - m.bottom + 4 }));
    root.append(s("text", { class: "tick", x: px(v), y: height - m.bottom + 16, "text-anchor": "middle" }, x.text(v)));
  }
  root.append(s("line", { class: "axis", x1: m.left, x2: width - m.right, y1: height - m.bottom, y2: height - m.bottom }));
  root.append(s("text", { class: "label", x: (m.left + width - m.right) / 2, y: height - 4, "text-anchor": "middle" }, x.label));
  root.append(s("text", { class: "label", x: 12, y: (m.top + height - m.bottom) / 2, "text-anchor": "middle",
    transform: `rotate(-90 12 ${(m.top + height - m.bottom) / 2})` }, y.label));
  return { root, px, py, right: width - m.right, left: m.left, bottom: height - m.bottom, top: m.top, low: y.low, high: y.high };
}

function valueAxis(points, unit, label) {
  const low = Math.min(...points.map((p) => p.mean - p.half)), high = Math.max(...points.map((p) => p.mean + p.half));
  const pad = (high - low || 0.1) * 0.06;
  const bound = unit === "fraction" ? [Math.max(0, low - pad), Math.min(1, high + pad)] : [low - pad, high + pad];
  return { low: bound[0], high: bound[1], ticks: ticks(bound[0], bound[1], 5), text: (v) => tick(v, unit), label: unit === "fraction" ? `${label}, %` : label };
}

const around = (values) => [Math.min(...values), Math.max(...values)];

function logAxis(values, text, label) {
  const [low, high] = around(values);
  const from = low / 1.6, to = high * 1.6, found = [];
  const steps = Math.log10(to / from) > 2.6 ? [1] : Math.log10(to / from) > 1.2 ? [1, 3] : [1, 2, 5];
  for (let e = Math.floor(Math.log10(from)); e <= Math.log10(to); e += 1) {
    for (const f of steps) if (f * 10 ** e >= from && f * 10 ** e <= to) found.push(f * 10 ** e);
  }
  return { low: from, high: to, log: true, ticks: found, text, label };
}

/* Points of a group of tables: one a row that is left, {method, mean, half, bytes, value, row, table, ref}. */
function pointsOf(tables, state) {
  const found = [];
  for (const table of tables) {
    const name = table.students.includes(state.student) ? state.student : table.students[0];
    const column = table.columns.findIndex((c) => c.g === "accuracy" && c.s === name);
    for (const row of table.rows) {
      const e = row.e[column];
      if (!row.id || !e || !isLeft(row, state)) continue;
      const cost = (title) => {
        const at = table.columns.findIndex((c) => ["cost", "rate"].includes(c.g) && c.t === title);
        return at >= 0 && row.e[at] ? row.e[at][1] : null;
      };
      found.push({ method: row.m, mean: e[1], half: e[4] || 0, text: e[0], bytes: row.b, seconds: cost("distillation"), bits: cost("bits/class"),
        packed: cost("after zstd"), value: table.value, row, table, ref: row.ref || "" });
    }
  }
  return found;
}

function drawPoint(axes, p, x, open) {
  const look = looks(p.method);
  const classes = p.ref ? "point c-ref" : `point ${look.colour}`;
  const node = s("g", { class: classes, "data-method": p.ref || p.method, click: () => open(p.row, p.table) });
  const rate = p.packed === null ? "" : `, ${bits(p.packed)} a class after zstd`;
  const spent = p.seconds === null ? "" : `${duration(p.seconds)} CPU, `;
  node.append(s("title", {}, `${p.method}, ${p.table.budget}: ${p.text}, ${spent}${bytes(p.bytes)}${rate}; ${p.table.labels} labels, ${p.table.protocol}`));
  if (p.half) {
    const top = axes.py(Math.min(p.mean + p.half, axes.high)), low = axes.py(Math.max(p.mean - p.half, axes.low));
    node.append(s("path", { class: "bar", d: `M${x - 3} ${top}h6M${x} ${top}V${low}M${x - 3} ${low}h6` }));
  }
  node.append(mark(p.ref ? "circle" : look.kind, x, axes.py(p.mean), { class: "mark" }));
  return node;
}

function drawFull(axes, points) {
  const full = points.find((p) => p.ref === "full");
  if (!full) return [];
  const y = axes.py(full.mean);
  return [
    s("line", { class: "full", x1: axes.left, x2: axes.right, y1: y, y2: y }),
    s("text", { class: "tick", x: axes.left + 4, y: y - 4 }, `all real data ${meanAndSpread(full.text)[0]}`),
  ];
}

function line(axes, points, x, classes) {
  const d = points.map((p, i) => `${i ? "L" : "M"}${x(p).toFixed(1)} ${axes.py(p.mean).toFixed(1)}`).join("");
  return s("path", { class: `line ${classes}`, d, "data-method": points[0].ref || points[0].method });
}

/* Points of one method in the order of their budget; of several rows of a method in a table, the best. */
function byMethod(points) {
  const found = new Map();
  for (const p of points) {
    if (p.ref === "full") continue;
    const own = found.get(p.method) || found.set(p.method, new Map()).get(p.method);
    const before = own.get(p.value);
    const better = p.table.better === "lower" ? -1 : 1;
    if (!before || better * (p.mean - before.mean) > 0) own.set(p.value, p);
  }
  return [...found].map(([method, own]) => [method, [...own.values()].sort((a, b) => a.value - b.value)]);
}

const lineClass = (method, points) => (points[0].ref ? "c-ref dashed" : looks(method).colour);

/* What ranks as a title begins with it: "Test accuracy" is "Accuracy". */
const ranks = (metric) => metric.replace(/^Test (.)/, (_, first) => first.toUpperCase());

/* What ranks against what a row costs: stored bytes, CPU time of the distillation, bits per class. What has no place is counted. */
function plotCost(points, unit, label, open, { what, of, text, axis, missing, joined = true, width = 430 }) {
  const all = points.filter((p) => p.ref !== "full");
  const own = all.filter((p) => of(p) > 0);
  if (!own.length) return null;
  const axes = frame(width, 290, logAxis(own.map(of), text, axis), valueAxis(points, unit, label), `${label} against ${what}, with 95 % intervals`);
  if (joined) axes.root.append(...drawFull(axes, points));
  for (const [method, mine] of joined ? byMethod(own) : []) {
    if (mine.length > 1) axes.root.append(line(axes, mine, (p) => axes.px(of(p)), `thin ${lineClass(method, mine)}`));
  }
  for (const p of [...own].sort((a, b) => Boolean(b.ref) - Boolean(a.ref))) axes.root.append(drawPoint(axes, p, axes.px(of(p)), open));
  const left = unique(all.filter((p) => !own.includes(p)).map((p) => (p.ref ? "random subset" : p.method)));
  return figure(`${ranks(label)} against ${what}`, axes.root, null, left.length ? `Not drawn, ${missing}: ${left.join(", ")}.` : "");
}

const plotBytes = (...to) => plotCost(...to, { what: "stored bytes", of: (p) => p.bytes, text: bytes, axis: "stored bytes (log)", missing: "nothing stored" });
const plotTime = (...to) => plotCost(...to, { what: "time to distil", of: (p) => p.seconds, text: duration, axis: "CPU time of the distillation (log)", missing: "no time recorded or none spent" });

/* Rate against accuracy: all tables of a dataset in one chart, after zstd or as stored. */
function plotRate(points, unit, label, open) {
  const ways = [["after zstd", (p) => p.packed, "no synset on the board"], ["as stored", (p) => p.bits, "nothing stored"]];
  const width = matchMedia("(max-width: 40rem)").matches ? 430 : 900;
  const drawn = ways.map(([way, of, missing]) => [way, plotCost(points, unit, label, open,
    { what: `bits per class, ${way}`, of, text: bits, axis: `bits per class, ${way} (log)`, missing, joined: false, width })]).filter(([, one]) => one);
  if (!drawn.length) return null;
  const select = h("select", { "aria-label": "How bits are counted", change: () => show() }, drawn.map(([way]) => h("option", {}, way)));
  const show = () => drawn.forEach(([, one], i) => { one.hidden = i !== select.selectedIndex; });
  show();
  return h("div", { class: "rates" }, h("p", { class: "soft" }, "Bits per class of images or parameters, labels and all else that training needs, ", select, ": every row of these data, whatever its budget, labels and protocol."), drawn.map(([, one]) => one));
}

function plotBudget(points, unit, label, open) {
  const all = points.filter((p) => p.ref !== "full" && p.value); // every row has a budget but the one of all images
  const valuesOf = (what) => unique(all.filter((p) => p.table.counted === what).map((p) => p.value)).sort((a, b) => a - b);
  const [what] = unique(all.map((p) => p.table.counted)).sort((a, b) => valuesOf(b).length - valuesOf(a).length);
  const own = all.filter((p) => p.table.counted === what), values = valuesOf(what);
  if (values.length < 2) return null;
  const text = what === "bytes" ? bytes : String;
  const x = { low: values[0] / 1.25, high: values[values.length - 1] * 1.25, log: true, ticks: values, text, label: `${what} (log)` };
  const axes = frame(430, 290, x, valueAxis(points, unit, label), `${label} against ${what}, by method`);
  axes.root.append(...drawFull(axes, points));
  const joined = byMethod(own), best = new Set(joined.flatMap(([, mine]) => mine));
  for (const [method, mine] of joined) axes.root.append(line(axes, mine, (p) => axes.px(p.value), lineClass(method, mine)));
  for (const p of own) axes.root.append(drawPoint(axes, p, axes.px(p.value), open));
  const several = unique(own.filter((p) => !best.has(p)).map((p) => (p.ref ? "random subset" : p.method)));
  return figure(`${ranks(label)} against ${what}`, axes.root, null, several.length ? `Of several rows of a method the line joins the best: ${several.join(", ")}.` : "");
}

/* Cross-architecture heat map of one table: the best rows that are left and the references by students, and what is not drawn. */
function plotHeat(table, state, open) {
  const columns = table.columns.flatMap((c, i) => (c.g === "accuracy" ? [{ name: c.s, i }] : []));
  const known = table.rows.filter((row) => row.id && isLeft(row, state) && columns.some((c) => row.e[c.i]));
  const own = known.filter((row) => !row.ref);
  const rows = [...own.slice(0, HEAT_ROWS), ...known.filter((row) => row.ref)];
  if (columns.length < 2 || !rows.length) return null;
  const keys = rows.flatMap((row) => columns.flatMap((c) => (row.e[c.i] ? [row.e[c.i][1]] : [])));
  const [low, high] = around(keys);
  const left = 92, top = 4, cw = Math.min(110, 330 / columns.length), ch = rows.length > 10 ? 20 : 23, bottom = 60;
  const root = s("svg", { viewBox: `0 0 ${Math.max(430, left + cw * columns.length + 8)} ${top + ch * rows.length + bottom}`, role: "img", class: "plot heat",
    "aria-label": `${ranks(table.metric)} of every student, ${table.title}` });
  rows.forEach((row, r) => {
    const y = top + r * ch;
    root.append(s("text", { class: row.ref ? "tick faint" : "tick", x: left - 8, y: y + ch / 2 + 4, "text-anchor": "end" }, cut(row.m, 13)));
    for (const [place, c] of columns.entries()) {
      const e = row.e[c.i];
      const level = e ? (high > low ? (e[1] - low) / (high - low) : 1) : 0;
      const g = s("g", { class: "cell", click: () => open(row, table) });
      g.append(s("title", {}, e ? `${row.m}, ${c.name}: ${e[0]}` : `${row.m}, ${c.name}: not evaluated`));
      g.append(s("rect", { class: e ? "tile" : "tile none", x: left + place * cw + 1, y: y + 1, width: cw - 2, height: ch - 2, rx: 3, "fill-opacity": e ? (0.08 + 0.84 * level).toFixed(3) : null }));
      g.append(s("text", { class: `tick ${level > 0.95 ? "on" : level > 0.65 ? "middle" : "value"}`, x: left + place * cw + cw / 2, y: y + ch / 2 + 4, "text-anchor": "middle" }, e ? meanAndSpread(e[0])[0] : "–"));
      root.append(g);
    }
  });
  columns.forEach((c, place) => {
    const x = left + place * cw + cw / 2, y = top + rows.length * ch + 14;
    root.append(s("text", { class: "tick", x, y, "text-anchor": "end", transform: `rotate(-24 ${x} ${y})` }, cut(c.name, 22)));
  });
  return h("div", {}, root, own.length > HEAT_ROWS ? h("p", { class: "soft" }, `The best ${HEAT_ROWS} of ${own.length} rows.`) : null);
}

const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function figure(title, drawing, extra, note) {
  return h("figure", { class: "chart" }, h("figcaption", {}, title, extra), drawing, note ? h("p", { class: "soft" }, note) : null);
}

/* What the marks mean: all methods of a group's charts, and a press shows one of them alone. */
function legend(points, charts) {
  const methods = unique(points.filter((p) => !p.ref).map((p) => p.method)).sort((a, b) => placeOf.get(a) - placeOf.get(b));
  const light = (name, button) => {
    const on = button.getAttribute("aria-pressed") !== "true";
    for (const one of charts.querySelectorAll(".legend button")) one.setAttribute("aria-pressed", String(on && one === button));
    charts.classList.toggle("lit", on);
    for (const node of charts.querySelectorAll("[data-method]")) node.classList.toggle("on", on && node.dataset.method === name);
  };
  const entry = (name, classes, kind, text) => {
    const button = h("button", { type: "button", "aria-pressed": "false", click: () => light(name, button) },
      s("svg", { viewBox: "0 0 14 14", width: 14, height: 14, "aria-hidden": "true", class: classes }, mark(kind, 7, 7, { class: "mark" })), text);
    return h("li", {}, button);
  };
  const entries = methods.map((method) => entry(method, looks(method).colour, looks(method).kind, method));
  if (points.some((p) => p.ref === "random")) entries.push(entry("random", "c-ref", "circle", "random subset"));
  const repeated = placeOf.size > 2 * COLOURS * MARKS.length ? h("li", {}, "More than 100 methods: looks repeat, a point tells its own.") : null;
  return h("ul", { class: "legend", "aria-label": "Methods in these charts" }, entries, repeated);
}
