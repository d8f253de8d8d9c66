
/* The page: filters, groups of tables, the opened row, keys, theme. */
function start() {
  const theme = byId("theme");
  const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
  const stored = (value) => { try { return value === undefined ? localStorage.getItem("ddbench-theme") : localStorage.setItem("ddbench-theme", value); } catch { return null; } };
  if (["dark", "light"].includes(stored())) document.documentElement.dataset.theme = stored();
  theme.hidden = false;
  label();
  theme.addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; stored(document.documentElement.dataset.theme); label(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  if (byId("data")) showBoard(JSON.parse(byId("data").textContent));
}

function showBoard(board) {
  const state = { dataset: "", budget: "", labels: "", student: "", q: "", verified: false, hidden: new Set(), narrowed: false };
  const controls = { dataset: byId("dataset"), budget: byId("budget"), labels: byId("labels"), student: byId("student"), q: byId("search") };

  /* Looks: methods by how often they share rank 1, then by name. */
  const wins = new Map();
  for (const table of board.tables) for (const row of table.rows) if (row.id && !row.ref) wins.set(row.m, (wins.get(row.m) || 0) + (row.k[0] === 1 ? 1 : 0));
  [...wins].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).forEach(([method], i) => placeOf.set(method, i));

  byId("links").append(...board.links.map(([text, address]) => h("a", { href: address }, text)));
  const option = (select, values) => select.append(...values.map((value) => h("option", { value }, value))); // its text alone would lose double spaces
  option(controls.dataset, unique(board.tables.map((t) => t.dataset)));
  option(controls.budget, unique([...board.tables].sort((a, b) => (a.value ?? 0) - (b.value ?? 0)).map((t) => t.budget)));
  option(controls.labels, unique(board.tables.map((t) => t.labels)).sort());
  option(controls.student, unique(board.tables.flatMap((t) => t.students)).sort());

  /* Groups of tables that differ in their budget only. */
  const groups = new Map();
  board.tables.forEach((table, place) => {
    const key = JSON.stringify([table.dataset, table.fingerprint, table.labels, table.protocol, table.hash, table.changed, table.precision, table.metric]);
    const group = groups.get(key) || groups.set(key, { views: [], charts: h("div", { class: "charts" }) }).get(key);
    group.views.push({ table, node: h("div"), id: `t${place}`, sort: null, all: false, order: [] });
  });
  const views = [...groups.values()].flatMap((group) => group.views);

  const open = (row, table) => showRow(row, table);
  const root = byId("board");
  let place = 0;
  const cards = h("ul", { class: "glance" });
  const glanceAt = glance(views);
  if (views.length > 1) root.append(h("details", { class: "overview" }, h("summary", {}, "Best of every table"), h("nav", { "aria-label": "Best of every table" }, cards)));
  if (board.left) root.append(h("p", { class: "plain" }, `This board is larger than a page of 2 MB can show: of every table here are its best ${board.most} rows and the references; ${board.left} more are in results/, and `, h("code", {}, "ddbench leaderboard show"), " prints all."));
  for (const group of groups.values()) {
    const table = group.views[0].table;
    place += 1;
    const about = `g${place}`;
    group.node = h("section", { class: "group" },
      h("h2", {}, table.dataset),
      h("p", { class: "under", id: about }, `${table.labels} labels · protocol `, h("b", {}, table.protocol), " ", h("code", {}, table.hash), ` · ${table.precision} · data `, h("code", {}, table.fingerprint),
        table.standard ? "" : [" · ", h("span", { class: "badge below" }, "non-standard"), ` ${table.changed}`]));
    for (const view of group.views) {
      view.section = h("section", { class: "table", id: view.id, "aria-label": view.table.title, "aria-labelledby": `${view.id}-title ${about}` }, h("h3", { id: `${view.id}-title` }, view.table.budget,
        h("span", { class: "under" }, `${view.table.metric}${view.table.unit === "fraction" ? ", per cent" : ""}${view.table.better === "lower" ? ", lower is better" : ""}`)), view.node, view.table.note ? h("p", { class: "soft" }, view.table.note) : "");
      group.node.append(view.section);
    }
    group.node.append(group.charts);
    root.append(group.node);
  }

  /* Below the last group of a dataset: all its rows of one metric by their rate. */
  const rates = new Map();
  for (const group of groups.values()) {
    const { dataset, fingerprint, metric } = group.views[0].table;
    const key = JSON.stringify([dataset, fingerprint, metric]);
    const rate = rates.get(key) || rates.set(key, { views: [], node: h("section", { class: "rate", "aria-label": `${dataset}: ${metric} against bits per class` }) }).get(key);
    rate.views.push(...group.views);
    group.node.after(rate.node);
  }

  function drawRate(rate, active) {
    const tables = rate.views.filter((view) => active.has(view)).map((view) => view.table);
    const points = pointsOf(tables, state);
    const chart = points.length ? plotRate(points, tables[0].unit, tables[0].metric, open) : null;
    rate.node.hidden = !chart;
    if (!chart) return;
    chart.append(legend(points, chart));
    rate.node.replaceChildren(h("h2", {}, `${tables[0].dataset}: rate`), chart);
  }

  function drawCharts(group, active) {
    const tables = active.map((view) => view.table);
    const points = pointsOf(tables, state);
    if (!points.length) return group.charts.replaceChildren();
    const { unit, metric } = tables[0];
    const heat = heatFigure(tables);
    group.charts.replaceChildren(...[plotBytes, plotTime, plotBudget].map((plot) => plot(points, unit, metric, open)).concat(heat).filter(Boolean), legend(points, group.charts));
    return null;
  }

  function heatFigure(tables) {
    const drawn = tables.map((table) => [table, plotHeat(table, state, open)]).filter(([, drawing]) => drawing);
    if (!drawn.length) return null;
    const hold = h("div", {}, drawn[0][1]);
    const select = drawn.length > 1 ? h("select", { "aria-label": "Budget of the heat map", change: () => hold.replaceChildren(drawn[select.selectedIndex][1]) }, drawn.map(([table]) => h("option", {}, table.budget))) : null;
    return figure("Across architectures", hold, select ? [" ", select] : ` · ${drawn[0][0].budget}`);
  }

  function apply() {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    state.narrowed = Boolean(words.length || state.verified);
    const texts = new WeakMap();
    const textOf = (row, table) => {
      if (!texts.has(row)) texts.set(row, [row.q, row.m, aboutOf(row, table, state), table.title, table.labels, table.protocol, ...table.students, ...row.e.map((e) => (e ? `${e[0]} ${e[3] || ""}` : ""))].join(" ").toLowerCase());
      return texts.get(row);
    };
    const matches = (row, table) => {
      if (row.ref && !words.length) return true;
      return isLeft(row, state) && words.every((word) => textOf(row, table).includes(word));
    };
    let count = 0, total = 0;
    const every = new Set();
    for (const group of groups.values()) {
      const active = [];
      for (const view of group.views) {
        const { table } = view;
        total += table.rows.filter((row) => !row.ref).length;
        const fits = (!state.dataset || table.dataset === state.dataset) && (!state.budget || table.budget === state.budget)
          && (!state.labels || table.labels === state.labels) && (!state.student || table.students.includes(state.student));
        const found = fits ? drawTable(view, state, matches, open) : 0;
        const any = fits && (found > 0 || (!state.narrowed && table.rows.length > 0) || (words.length > 0 && view.order.length > 0));
        view.section.hidden = !any;
        if (any) active.push(view);
        if (any) every.add(view);
        count += any ? found : 0;
      }
      group.node.hidden = !active.length;
      if (active.length) drawCharts(group, active);
    }
    for (const rate of rates.values()) drawRate(rate, every);
    cards.replaceChildren(...glanceAt(every, state));
    byId("count").textContent = `${count} of ${total} rows`;
    byId("nothing").hidden = [...groups.values()].some((group) => !group.node.hidden);
    remember();
  }

  /* Filters, columns that were chosen and the opened row are in the address, so that it can be shared. */
  const boxes = new Map();
  let opened = null;
  function remember() {
    const said = new URLSearchParams();
    for (const name of ["dataset", "budget", "labels", "student", "q"]) if (state[name]) said.set(name, state[name]);
    if (state.verified) said.set("verified", "1");
    if (boxes.chosen) said.set("columns", [...boxes.keys()].filter((g) => !state.hidden.has(g)).join(","));
    if (opened) said.set("row", opened.row.id);
    if (opened && opened.other) said.set("with", opened.other);
    const text = said.toString();
    try { history.replaceState(null, "", text ? `#${text}` : location.href.split("#")[0]); } catch { /* an address that may not change */ }
  }
  function recall() {
    const said = new URLSearchParams(location.hash.slice(1));
    for (const [name, control] of Object.entries(controls)) {
      const value = said.get(name) || "";
      if (control.tagName !== "SELECT" || [...control.options].some((o) => o.value === value)) control.value = value;
      state[name] = control.value;
    }
    byId("verified").checked = state.verified = said.get("verified") === "1";
    if (said.has("columns")) {
      const shown = said.get("columns").split(",");
      boxes.chosen = true;
      for (const [g, box] of boxes) { box.checked = shown.includes(g); state.hidden[box.checked ? "delete" : "add"](g); }
    }
    return [said.get("row"), said.get("with")];
  }

  const form = byId("filters");
  const labels = { accuracy: "accuracy", cost: "cost", rate: "rate", further: "second metric", scores: "DD-Ranking", calibration: "calibration", robustness: "robustness", corruptions: "corruptions", ood: "other data", tasks: "tasks", about: "about" };
  const there = unique(board.tables.flatMap((t) => t.columns.map((c) => c.g))).filter((g) => g in labels && g !== "accuracy");
  /* On a smaller screen a table begins with what fits beside the accuracies. */
  const first = matchMedia("(max-width: 40rem)").matches ? [] : matchMedia("(max-width: 86rem)").matches ? ["cost", "about"] : there;
  for (const g of there) {
    const box = h("input", { type: "checkbox", checked: first.includes(g), change: () => { boxes.chosen = true; state.hidden[box.checked ? "delete" : "add"](g); apply(); } });
    boxes.set(g, box);
    if (!box.checked) state.hidden.add(g);
    byId("columns").append(h("label", {}, box, ` ${labels[g]}`));
  }
  const read = () => {
    for (const [name, control] of Object.entries(controls)) state[name] = control.value;
    state.verified = byId("verified").checked;
    for (const view of views) view.sort = null;
    apply();
  };
  let waiting = 0;
  controls.q.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(read, 80); });
  for (const control of [controls.dataset, controls.budget, controls.labels, controls.student, byId("verified")]) control.addEventListener("change", read);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => { event.preventDefault(); for (const control of Object.values(controls)) control.value = ""; byId("verified").checked = false; read(); });
  byId("clear").addEventListener("click", () => { byId("reset").click(); controls.q.focus(); });
  form.hidden = false;

  /* The opened row. */
  const panel = byId("panel");
  let cameFrom = null;
  function showRow(row, table, other = null) {
    if (!row.id) return;
    if (!panel.open) cameFrom = document.activeElement;
    opened = { row, table, other: null };
    const rank = rankOf(row, table, state);
    const title = row.e[1][0], about = aboutOf(row, table, state);
    const step = (by) => h("button", { type: "button", "aria-label": by < 0 ? "Previous row" : "Next row", click: () => move(by) }, by < 0 ? "←" : "→");
    panel.replaceChildren(
      h("div", { class: "bar" },
        h("div", {}, h("p", { class: "under" }, `${table.title} · ${table.labels} labels · ${table.protocol}`),
          h("h2", { id: "panel-title" }, title, rank ? h("span", { class: "badge rank" }, `rank ${rank}`) : "", about ? h("small", {}, about) : "")),
        h("div", { class: "buttons" }, step(-1), step(1), h("button", { type: "button", class: "close", "aria-label": "Close", click: () => panel.close() }, "✕"))),
      h("div", { class: "body", tabindex: -1 }, panelContent(row, table, board, state,
        compareSection(row, table, other, (id) => { opened.other = id; remember(); }))));
    if (!panel.open) panel.showModal();
    panel.querySelector(".body").scrollTop = 0;
    panel.querySelector(".close").focus();
    remember();
  }
  function move(by) {
    const view = views.find((v) => v.table === opened.table);
    const place = view.order.findIndex((row) => row.id === opened.row.id);
    const next = place < 0 ? null : view.order[place + by]; // a row that the filters leave out has none beside it
    if (next) showRow(next, view.table);
  }
  panel.addEventListener("close", () => {
    const node = opened && views.find((v) => v.table === opened.table).node.querySelector(`tr[data-id="${opened.row.id}"] .open`);
    opened = null;
    panel.replaceChildren();
    remember();
    const back = node || cameFrom;
    if (back && back.isConnected) back.focus();
  });
  panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });
  panel.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|PRE)$/.test(event.target.tagName)) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") { event.preventDefault(); move(event.key === "ArrowLeft" ? -1 : 1); }
  });

  /* Keys of the tables: up and down go through the rows, Home and End to the ends; / goes to the search. */
  document.addEventListener("keydown", (event) => {
    if (panel.open || event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing) { event.preventDefault(); controls.q.focus(); controls.q.select(); return; }
    if (event.key === "Escape" && event.target === controls.q && controls.q.value) { controls.q.value = ""; read(); return; }
    const buttons = [...root.querySelectorAll("section.table:not([hidden]) .open")].filter((b) => b.offsetParent);
    const at = buttons.indexOf(event.target);
    if (event.key === "ArrowDown" && event.target === controls.q && buttons.length) { event.preventDefault(); buttons[0].focus(); return; }
    if (at < 0) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to !== undefined && buttons[to]) { event.preventDefault(); buttons[to].focus(); buttons[to].scrollIntoView({ block: "nearest" }); }
  });

  const follow = () => {
    const [wanted, other] = recall();
    const has = (view, id) => view.table.rows.some((row) => row.id === id);
    const having = views.filter((view) => wanted && has(view, wanted));
    if (!having.length && panel.open) panel.close();
    if (!having.length) opened = null;
    apply();
    /* A reference stands in several tables: that of the row beside it, of these one that the filters leave. */
    const near = other ? having.filter((view) => has(view, other)) : [];
    const fitting = near.length ? near : having;
    const view = fitting.find((one) => !one.section.hidden) || fitting[0];
    if (view) showRow(view.table.rows.find((row) => row.id === wanted), view.table, other);
  };
  follow();
  /* A place on the page, such as that of the skip link, is no state: the address says the state again. */
  addEventListener("hashchange", () => (byId(location.hash.slice(1)) ? remember() : follow()));
}

/* Every table at a glance: the best of the rows that are left, by the student that is chosen, between random images and
   all real data. */
function glance(views) {
  const columnOf = (table, student) => table.columns.findIndex((c) => c.g === "accuracy" && c.s === student);
  /* One scale for all cards of a metric: shares go from 0 to 100 %, other units over what there is. */
  const range = (table) => {
    if (table.unit === "fraction") return [0, 1];
    const values = views.filter((view) => view.table.metric === table.metric).flatMap((view) => view.table.rows.flatMap((row) => view.table.columns.flatMap((c, i) => (c.g === "accuracy" && row.e[i] ? [row.e[i][1]] : []))));
    return [Math.min(...values), Math.max(...values)];
  };
  const cardOf = (view, state) => {
    const { table } = view;
    const column = columnOf(table, state.student || table.students[0]);
    const better = table.better === "lower" ? -1 : 1;
    const ranked = table.rows.filter((row) => !row.ref && rankOf(row, table, state) && isLeft(row, state));
    const first = Math.min(...ranked.map((row) => rankOf(row, table, state)));
    const best = ranked.filter((row) => rankOf(row, table, state) === first).sort((a, b) => better * (b.e[column][1] - a.e[column][1]));
    const of = (name) => { const row = table.rows.find((r) => r.ref === name && r.id); return row && row.e[column] ? row.e[column] : null; };
    if (!best.length) return null;
    const top = best[0].e[column], random = of("random"), full = of("full");
    const [low, high] = range(table);
    const x = (v) => 8 + (high > low ? (v - low) / (high - low) : 1) * 184;
    const track = s("svg", { viewBox: "0 0 200 22", class: "track", "aria-hidden": "true" }, s("line", { class: "rail", x1: 8, x2: 192, y1: 11, y2: 11 }));
    if (random) track.append(s("line", { class: "gain", x1: x(random[1]), x2: x(top[1]), y1: 11, y2: 11 }), s("circle", { class: "c-ref-fill", cx: x(random[1]), cy: 11, r: 4 }));
    if (full) track.append(s("line", { class: "stop", x1: x(full[1]), x2: x(full[1]), y1: 4, y2: 18 }));
    track.append(s("circle", { class: random || full ? "top" : "top alone", cx: x(top[1]), cy: 11, r: 6 }));
    const names = unique(best.map((row) => row.m));
    const who = names.length > 3 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ");
    const said = [random && `random ${random[0].split(" ")[0]}`, full && `all data ${full[0].split(" ")[0]}`].filter(Boolean).join(" · ") || "no references measured";
    const go = () => { view.section.scrollIntoView({ block: "start" }); const first = view.node.querySelector(".open"); if (first) first.focus({ preventScroll: true }); };
    return h("li", {}, h("button", { type: "button", class: "card", click: go },
      h("span", { class: "where" }, `${table.dataset} · ${table.budget} · ${table.labels}${table.standard ? "" : " · non-standard"}`), h("span", { class: "who" }, who), h("span", { class: "score" }, meanAndSpread(top[0])[0], h("i", {}, ` ${meanAndSpread(top[0])[1]}`.trimEnd())), track, h("span", { class: "ends" }, said)));
  };
  return (there, state) => views.filter((view) => there.has(view)).map((view) => cardOf(view, state)).filter(Boolean);
}

start();
