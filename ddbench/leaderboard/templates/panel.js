
/* An opened row. */
const BINS = 15;

function seedPlot(runs, unit, metric) {
  const rows = runs.map(([student, values]) => ({ student, values: values.map(([seed, v]) => ({ seed, v })) }));
  const all = rows.flatMap((row) => row.values.map((p) => p.v));
  const [low, high] = around(all);
  const pad = (high - low || 0.02) * 0.1;
  const left = 150, width = 560, step = 30, top = 6, bottom = top + step * rows.length;
  const x = (v) => left + ((v - low + pad) / (high - low + 2 * pad)) * (width - left - 16);
  const root = s("svg", { viewBox: `0 0 ${width} ${bottom + 30}`, role: "img", class: "plot", "aria-label": `${ranks(metric)} of every seed, by student` });
  for (const v of ticks(low - pad, high + pad, 6)) {
    root.append(s("line", { class: "grid", x1: x(v), x2: x(v), y1: top, y2: bottom }));
    root.append(s("text", { class: "tick", x: x(v), y: bottom + 16, "text-anchor": "middle" }, tick(v, unit)));
  }
  rows.forEach((row, i) => {
    const y = top + step * (i + 0.5);
    const mean = row.values.reduce((sum, p) => sum + p.v, 0) / row.values.length;
    root.append(s("text", { class: "tick", x: left - 10, y: y + 4, "text-anchor": "end" }, cut(row.student, 21)));
    root.append(s("line", { class: "mean", x1: x(mean), x2: x(mean), y1: y - 9, y2: y + 9 }));
    for (const p of row.values) {
      const dot = s("circle", { class: "dot", cx: x(p.v), cy: y, r: 4.5 });
      dot.append(s("title", {}, `seed ${p.seed}: ${shown(p.v, unit)}`));
      root.append(dot);
    }
  });
  return root;
}

function reliability(curves) {
  const unitAxis = { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => String(v) };
  const axes = frame(250, 240, { ...unitAxis, label: "confidence" }, { ...unitAxis, label: "accuracy" },
    "Reliability diagram: accuracy against confidence in 15 bins", { left: 42, right: 10 });
  axes.root.append(s("line", { class: "diagonal", x1: axes.px(0), y1: axes.py(0), x2: axes.px(1), y2: axes.py(1) }));
  const bars = curves.reliability || [];
  bars.forEach(([n, confidence, accuracy], i) => {
    if (!n) return;
    const bar = s("rect", { class: "bin", x: axes.px(i / bars.length) + 0.5, width: (axes.px(1) - axes.px(0)) / bars.length - 1,
      y: axes.py(accuracy), height: Math.max(0.5, axes.py(0) - axes.py(accuracy)) });
    bar.append(s("title", {}, `${n} images, confidence ${percent(confidence)} %, accuracy ${percent(accuracy)} %`));
    axes.root.append(bar);
  });
  const scaled = (curves.reliability_scaled || []).filter(([n]) => n);
  if (scaled.length) {
    const d = scaled.map(([, c, a], i) => `${i ? "L" : "M"}${axes.px(c).toFixed(1)} ${axes.py(a).toFixed(1)}`).join("");
    axes.root.append(s("path", { class: "line scaled", d }));
    for (const [n, c, a] of scaled) {
      const dot = s("circle", { class: "scaled-dot", cx: axes.px(c), cy: axes.py(a), r: 3 });
      dot.append(s("title", {}, `after temperature scaling: ${n} images, confidence ${percent(c)} %, accuracy ${percent(a)} %`));
      axes.root.append(dot);
    }
  }
  return axes.root;
}

function robustness(points, norm) {
  const own = points.filter((p) => p.norm === norm);
  const attacks = unique(own.map((p) => p.attack));
  const xs = unique(own.map((p) => p.value)).sort((a, b) => a - b);
  const named = new Map(own.map((p) => [p.value, p.eps]));
  const high = Math.max(...own.map((p) => p.accuracy), 0.05);
  const y = { low: 0, high: Math.min(1, high * 1.08), ticks: ticks(0, Math.min(1, high * 1.08), 5), text: (v) => tick(v, "fraction"), label: "accuracy, %" };
  const x = { low: Math.min(0, xs[0]), high: xs[xs.length - 1] * 1.04, ticks: xs, text: (v) => named.get(v).replace(/\/255$/, ""), label: norm === "linf" ? "eps, of 255, L∞" : "eps, of 255, L2" };
  const axes = frame(320, 240, x, y, `Accuracy under attack, ${norm}`, { right: 64 });
  const ends = [];
  attacks.forEach((attack, i) => {
    const mine = own.filter((p) => p.attack === attack).sort((a, b) => a.value - b.value);
    const d = mine.map((p, j) => `${j ? "L" : "M"}${axes.px(p.value).toFixed(1)} ${axes.py(p.accuracy).toFixed(1)}`).join("");
    axes.root.append(s("path", { class: `line c${i % COLOURS}`, d }));
    for (const p of mine) {
      const g = s("g", { class: `point c${i % COLOURS}` }, s("title", {}, `${attack}, eps ${p.eps}: ${percent(p.accuracy)} %`), mark(MARKS[i % MARKS.length], axes.px(p.value), axes.py(p.accuracy), { class: "mark" }));
      axes.root.append(g);
    }
    const last = mine[mine.length - 1];
    ends.push({ y: axes.py(last.accuracy), x: axes.px(last.value) + 9, text: attack, look: `c${i % COLOURS}` });
  });
  ends.sort((a, b) => a.y - b.y);
  ends.forEach((end, i) => {
    if (i && end.y - ends[i - 1].y < 12) end.y = ends[i - 1].y + 12;
    axes.root.append(s("text", { class: `tick ${end.look} named`, x: end.x, y: end.y + 4 }, cut(end.text, 12)));
  });
  return axes.root;
}

function corruptions(found, errors) {
  const names = Object.keys(found).sort();
  const levels = Math.max(...names.map((name) => found[name].length));
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const all = names.flatMap((name) => found[name]);
  const [low, high] = around(all);
  const cell = (v) => h("td", { class: "number", "data-level": high > low ? Math.round((9 * (v - low)) / (high - low)) : 9 }, percent(v));
  const rows = names.map((name) => h("tr", {}, h("th", { scope: "row" }, name.replace(/_/g, " ")), found[name].map(cell), h("td", { class: "number strong" }, percent(mean(found[name]))), errors ? h("td", { class: "number" }, errors[name].toFixed(2)) : null));
  const head = h("tr", {}, h("th", { scope: "col" }, "corruption"), [...Array(levels).keys()].map((i) => h("th", { scope: "col", class: "number" }, i + 1)), h("th", { scope: "col", class: "number" }, "mean"), errors ? h("th", { scope: "col", class: "number" }, "error / full") : null);
  const table = h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Accuracy by corruption" }, h("table", { class: "small heat" }, h("thead", {}, head), h("tbody", {}, rows)));
  if (!errors) return table;
  const mce = mean(names.map((name) => errors[name])).toFixed(2);
  return [table, h("p", { class: "soft" }, `Mean corruption error (mCE) ${mce}: errors relative to the same network trained on all real data. It flatters rows of low accuracy.`)];
}

const TO_SHARE = "Copy the link to this row";

/* Addresses of the row: to share, and its files to take along. */
function copyLink() {
  const button = h("button", { type: "button", class: "share", click: async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      button.textContent = "Copied";
    } catch {
      button.textContent = "It is in the address bar";
    }
    setTimeout(() => { button.textContent = TO_SHARE; }, 2500);
  } }, TO_SHARE);
  return button;
}
function takeAlong(result) {
  const entry = (address, text) => {
    const node = link(address, text);
    if (node.setAttribute && !/^https?:/.test(address)) node.setAttribute("download", "");
    return node;
  };
  return h("p", { class: "take" }, h("span", { class: "soft" }, "Download "), entry(result.path, "row (JSON)"),
    result.synset ? entry(result.synset, "synset (safetensors)") : h("span", { class: "soft" }, "no synset on the board"), result.picture ? entry(result.picture[0], "preview (PNG)") : null);
}

const section = (title, ...content) => h("section", {}, h("h3", {}, title), content);
const facts = (pairs) => h("dl", {}, pairs.map(([name, ...value]) => [h("dt", {}, name), h("dd", {}, value)]));

function commandBox(commands) {
  const text = commands.join("\n");
  const button = h("button", { type: "button", class: "copy", click: async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(block);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } }, "Copy");
  const block = h("pre", { tabindex: 0 }, text);
  return h("div", { class: "command" }, button, block);
}

function simpleTable(heads, rows, numbers = []) {
  const at = (i) => (numbers.includes(i) ? "number" : "text");
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": heads.join(", ") }, h("table", { class: "small" },
    h("thead", {}, h("tr", {}, heads.map((text, i) => h("th", { scope: "col", class: at(i) }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value, i) => h("td", { class: at(i) }, value)))))));
}

function curvesOf(result) {
  const parts = [];
  const students = Object.entries(result.curves || {}).sort();
  const named = (student, drawing) => h("figure", { class: "small" }, h("figcaption", {}, student), drawing);
  const reliable = students.filter(([, c]) => c.reliability || c.reliability_scaled);
  if (reliable.length) {
    parts.push(section("Reliability", h("p", { class: "soft" }, "Bars: as trained. Line: after temperature scaling on held-out training images. On the diagonal confidence equals accuracy."),
      h("div", { class: "row" }, reliable.map(([student, c]) => named(student, reliability(c))))));
  }
  const attacked = students.filter(([, c]) => (c.robustness || []).length);
  if (attacked.length) {
    const drawn = attacked.flatMap(([student, c]) => {
      const points = c.robustness.map(([attack, norm, eps, value, accuracy]) => ({ attack, norm, eps, value, accuracy }));
      return unique(points.map((p) => p.norm)).map((norm) => named(student, robustness(points, norm)));
    });
    const warnings = attacked.flatMap(([student, c]) => (c.masking_warnings || []).map((text) => `${student}: ${text}`)); // each has its own seeds
    parts.push(section("Robustness", h("p", { class: "soft" }, "Accuracy under attack against the size of the perturbation."), h("div", { class: "row" }, drawn),
      warnings.map((text) => h("p", { class: "warning" }, text))));
  }
  const corrupted = students.filter(([, c]) => Object.keys(c.corruptions || {}).length);
  if (corrupted.length) {
    parts.push(section("Corruptions", h("p", { class: "soft" }, "Accuracy in per cent at severity 1 to 5."),
      corrupted.map(([student, c], i) => h("details", { open: i === 0 }, h("summary", {}, student), corruptions(c.corruptions, c.corruption_errors)))));
  }
  return parts;
}

function preview(result, method) {
  if (!result.picture) return null;
  const [path, width, height] = result.picture;
  const factor = Math.max(1, Math.floor(320 / width));
  return h("figure", { class: "preview" }, h("img", { src: path, width: width * factor, height: height * factor, alt: `Preview of the synset by ${method}` }), h("figcaption", {}, "synset preview"));
}

function resultBlock(result, row, texts, several) {
  const text = (i) => texts[i];
  const unit = text(result.runs[0][1][0][2]);
  const main = result.runs.map(([student, metrics]) => [student, metrics[0][3]]);
  const who = [
    ["Authors", (result.authors || []).join(", ")],
    ["Links", (result.links || []).map((a, i) => [i ? h("br") : "", link(a)])],
    ["Code", result.code ? link(result.code) : ""],
    ["Licence", result.licence || ""],
    ...result.facts,
    ["Stored", result.bytes.map(([part, count]) => `${part} ${count.toLocaleString("en")}`).join(", ") + " bytes"],
    ...result.cost,
    ["Made with", text(result.made)],
    ["Files", [link(result.path, "result"), result.synset ? [" · ", link(result.synset, "synset")] : "", result.picture ? [" · ", link(result.picture[0], "picture")] : "", " · sha256 ", h("code", {}, result.sha256)]],
  ].filter(([, value]) => value !== "" && !(Array.isArray(value) && !value.length));
  const claims = (result.claims || []).map(([student, metric, claimed, ours, source]) => [student, metric, claimed, ours || "–", source ? link(source) : "–"]);
  const check = result.verification;
  return [
    several ? h("h2", { class: "one" }, `Synset seed ${result.facts.find(([name]) => name === "Synset seed")[1]}`) : null,
    takeAlong(result),
    result.note ? h("p", { class: "note" }, result.note) : null,
    h("div", { class: "two" }, section("Every seed", seedPlot(main, unit, text(result.runs[0][1][0][0]))), preview(result, row.m)),
    check ? section("Verification", h("p", {}, h("span", { class: `badge ${check.verdict}` }, check.verdict), check.extent ? ` ${check.extent} ` : " ", h("span", { class: "soft" }, check.by)),
      simpleTable(["student", "claimed", "measured", "expected within", "runs", "verdict"], check.students, [1, 2, 3, 4])) : null,
    claims.length ? section("Published beside ours", simpleTable(["student", "metric", "published", "ours", "source"], claims, [2, 3])) : null,
    curvesOf(result),
    result.scores ? section("DD-Ranking scores", h("p", { class: "soft" }, result.scores.how), simpleTable(["score", "mean ± half of the 95 % interval"], result.scores.lines.map(([t, v]) => [text(t), v]), [1])) : null,
    result.tasks ? section("Tasks", result.tasks.map(([name, how, lines, question]) => h("div", {}, h("h4", {}, name), h("p", { class: "soft" }, how), simpleTable(["number", "mean ± half of the 95 % interval"], lines.map(([t, v]) => [text(t), v]), [1]),
      h("details", {}, h("summary", {}, "What was asked"), h("pre", { tabindex: 0 }, text(question)))))) : null,
    section("All metrics", result.runs.map(([student, metrics], i) => h("details", { open: i === 0 && result.runs.length === 1 }, h("summary", {}, student),
      simpleTable(["metric", "mean ± half", "seed: value"], metrics.map(([t, summary, u, values]) => [text(t), summary, values.map(([seed, v]) => `${seed}: ${shown(v, text(u))}`).join("   ")]), [1])))),
    section("Again", h("p", { class: "soft" }, "The commands of this row."), commandBox(result.commands)),
    section("Recipe and protocol", [["Recipe: the resolved config", result.recipe], ["Protocol settings", result.settings], ["Preprocess", result.preprocess], ...(result.measured || []).map(([name, i]) => [`Settings of ${name}`, i])]
      .map(([title, i]) => h("details", {}, h("summary", {}, title), h("pre", { tabindex: 0 }, text(i))))),
    section("About", facts(who)),
  ];
}

/* What the method is, where ddbench has it: paper, code and card. */
function methodFacts(known) {
  const pairs = [
    ["Method", `${known.title}: ${known.line}`],
    ["Family", known.family],
    ["Paper", known.paper ? [link(known.url, known.paper), ` (${known.cited})`] : ""],
    ["Public code", known.code ? [link(known.code), known.licence ? ` (licence: ${known.licence})` : ""] : ""],
    ["Card", link(known.card, "idea, equations, deviations, what was measured")],
  ];
  return h("section", {}, facts(pairs.filter(([, value]) => value !== "")));
}

/* An opened row: what the table knows at once, and the rest when its file is there. */
function panelContent(row, table, board, state, compare) {
  const place = table.columns.map((column, i) => [column, entryOf(row, i, state)]).filter(([column, e]) => e && ["accuracy", "cross", "cost", "rate", "scores"].includes(column.g));
  const numbers = place.slice(0, 9).map(([column, e]) => h("div", { class: e[2] ? "best" : null }, h("dt", { title: column.h }, column.t), h("dd", {}, e[0])));
  const method = Object.hasOwn(board.methods, row.m) ? methodFacts(board.methods[row.m]) : null;
  const rest = h("div", { class: "rest", "aria-busy": "true" }, h("p", { class: "soft" }, "Loading …"));
  detailsOf(row.id).then((details) => {
    rest.replaceChildren(...(details ? restOf(row, details, compare) : [missingRow(row)]));
    rest.removeAttribute("aria-busy");
  });
  return [h("dl", { class: "numbers" }, numbers), h("p", { class: "take" }, copyLink()), method, rest];
}

const missingRow = (row) => h("p", {}, "What else is known of this row is in ", h("code", {}, `rows/${row.id}.js`), ", which is not beside this page; all of it is in its ", link(row.path, "result file"), ".");

function restOf(row, details, compare) {
  const several = details.results.length > 1;
  const earlier = details.earlier.length ? section("Superseded", h("details", {}, h("summary", {}, `${details.earlier.length} earlier ${details.earlier.length === 1 ? "result" : "results"} of the same synset and protocol`),
    simpleTable(["result", "numbers"], details.earlier.map(([id, path, numbersText]) => [link(path, id), numbersText])))) : null;
  return [compare, details.results.map((result) => resultBlock(result, row, details.texts, several)), earlier].flat(Infinity).filter(Boolean);
}
