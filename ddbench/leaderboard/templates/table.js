
/* One table: head, rows, sorting. */
const FIRST = 25;
const GROUPS = { cross: "", cost: "Cost", rate: "Rate", further: "Second metric", scores: "DD-Ranking", calibration: "Calibration", robustness: "Robustness", corruptions: "Corruptions", ood: "Other data", tasks: "Tasks", about: "About", place: "" };

/* Columns that are shown: of one student where one is chosen, of the ranking one for what has a column for each. */
function visibleColumns(table, state) {
  const active = state.student && table.students.includes(state.student) ? state.student : table.students[0];
  return table.columns.map((column, i) => ({ column, i })).filter(({ column }) => {
    if (state.hidden.has(column.g === "cross" ? "accuracy" : column.g)) return false;
    if (column.g === "accuracy") return !state.student || column.s === active;
    return !column.s || column.s === active;
  });
}

/* "88.7 ± 0.9", "97.9 (89.5 to 100.0, clipped)", "55.0 (too few seeds)": the mean, and what follows it. */
function meanAndSpread(text) {
  const at = text.search(/ (±|\([-\d.]+ to [^)]*clipped\)$|\(too few seeds\)$)/);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}

/* Whether "verified only" leaves a row: references always. */
const isLeft = (row, state) => !state.verified || Boolean(row.ref || row.ok);

/* With "verified only" places, and what is best, are among the rows that are left; `v` says what is otherwise there. */
function rankOf(row, table, state) {
  const place = state.student ? table.students.indexOf(state.student) : 0;
  const ranks = !isLeft(row, state) ? null : state.verified && row.v && row.v.k ? row.v.k : row.k;
  return ranks && place >= 0 ? ranks[place] : 0;
}
const entryOf = (row, i, state) => (state.verified && row.v && row.v.e && row.v.e[i] ? row.v.e[i] : row.e[i]);

/* What is said of a row beside its method: what it is, and how it stands to random images by the student that ranks. */
function aboutOf(row, table, state) {
  const place = state.student ? table.students.indexOf(state.student) : 0;
  return [row.e[1][3], row.a && place >= 0 ? row.a[place] : ""].filter(Boolean).join(", ");
}

function cellOf(row, table, column, i, state, open) {
  const e = entryOf(row, i, state);
  if (column.g === "place" && column.t === "rank") {
    const rank = rankOf(row, table, state);
    return h("td", { class: "number rank" }, rank ? h("span", { class: rank === 1 ? "medal" : null }, rank) : "–");
  }
  if (column.g === "place") {
    const name = row.id
      ? h("button", { type: "button", class: "open", "aria-haspopup": "dialog", click: () => open(row, table) }, e[0])
      : h("span", { class: "plain" }, e[0]);
    const about = aboutOf(row, table, state);
    return h("th", { scope: "row", class: "name" }, name, about ? h("small", {}, about) : null);
  }
  if (!e) return h("td", { class: column.n ? "number none" : "none" }, "–");
  const kind = (column.n ? "number" : "text") + (e[2] ? " best" : "");
  if (column.t === "verified" && column.g === "about") return h("td", { class: kind }, h("span", { class: `badge ${e[0]}` }, e[0]), e[3] ? h("small", {}, e[3]) : null);
  const [mean, spread] = meanAndSpread(e[0]);
  return h("td", { class: kind }, mean, spread ? [" ", h("span", { class: "half" }, spread)] : null, e[3] ? h("small", {}, e[3]) : null);
}

const REFERENCES = ["random", "full"];

function compareRows(table, column, i, descending, state) {
  const sign = descending ? -1 : 1;
  const key = (row) => (column.t === "rank" && column.g === "place" ? rankOf(row, table, state) || null : row.e[i] ? (row.e[i].length > 1 ? row.e[i][1] : row.e[i][0]) : null);
  return (a, b) => {
    const reference = REFERENCES.indexOf(a.ref) - REFERENCES.indexOf(b.ref);
    if (reference) return reference;
    const x = key(a), y = key(b);
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (column.n ? x - y : String(x).localeCompare(String(y)));
  };
}

/* A box that a table scrolls in; its right edge fades while there is more, and a line below says so. */
function wideBox(title, table) {
  const hint = h("p", { class: "soft sideways", hidden: true }, "More columns to the right: scroll sideways, or leave some out at the top of the page.");
  const scroll = h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": title, scroll: () => look() }, table);
  const box = h("div", { class: "box" }, scroll);
  const look = () => {
    box.classList.toggle("more-right", scroll.scrollLeft + scroll.clientWidth < scroll.scrollWidth - 2);
    hint.hidden = scroll.scrollWidth <= scroll.clientWidth + 2;
  };
  new ResizeObserver(look).observe(scroll);
  return [hint, box];
}

/* Draw a table anew; `matches(row)` says which rows stay. Returns the number of rows that match. */
function drawTable(view, state, matches, open) {
  const { table } = view;
  const columns = visibleColumns(table, state);
  const place = state.student ? table.columns.findIndex((c) => c.g === "accuracy" && c.s === state.student) : -1;
  let rows = table.rows;
  if (view.sort && columns.some(({ i }) => i === view.sort.i)) {
    rows = [...rows].sort(compareRows(table, table.columns[view.sort.i], view.sort.i, view.sort.descending, state));
  } else if (place > 0 || state.verified) {
    const by = place > 0 ? place : table.columns.findIndex((c) => c.g === "accuracy" && c.s === table.students[0]);
    const byMean = compareRows(table, table.columns[by], by, table.better === "higher", state);
    const unranked = (row) => Number(!rankOf(row, table, state)); // last of the methods, as in the order of the board
    rows = [...rows].sort((a, b) => (a.ref || b.ref ? 0 : unranked(a) - unranked(b)) || byMean(a, b));
  }
  rows = rows.filter((row) => (place < 0 || row.ref || row.e[place]) && matches(row, table));
  const methods = rows.filter((row) => !row.ref);
  const some = state.narrowed || view.all ? methods : methods.slice(0, FIRST);
  const keep = new Set([...some, ...rows.filter((row) => row.ref)]);
  view.order = rows.filter((row) => row.id); // also those that "Show more" holds: a chart has all

  const groups = h("tr", { class: "groups", "aria-hidden": "true" });
  for (let at = 0; at < columns.length;) {
    const g = columns[at].column.g === "cross" ? "accuracy" : columns[at].column.g;
    let wide = 1;
    while (at + wide < columns.length && (columns[at + wide].column.g === g || (g === "accuracy" && columns[at + wide].column.g === "cross"))) wide += 1;
    groups.append(h("td", { colspan: wide, class: g === "place" ? null : "named" }, g === "accuracy" ? table.metric : GROUPS[g]));
    at += wide;
  }
  const head = h("tr", {}, columns.map(({ column, i }) => {
    const sorted = view.sort && view.sort.i === i ? (view.sort.descending ? "descending" : "ascending") : null;
    const press = () => {
      const first = column.n && column.t !== "rank" && !column.low;
      const descending = view.sort && view.sort.i === i ? !view.sort.descending : Boolean(first);
      view.sort = { i, descending };
      drawTable(view, state, matches, open);
      view.node.querySelector(`thead [data-column="${i}"] button`).focus();
    };
    const fixed = column.g === "place" ? (column.t === "rank" ? " rank" : " name") : "";
    return h("th", { scope: "col", class: (column.n ? "number" : "text") + fixed, "aria-sort": sorted, title: column.h, "data-column": i }, h("button", { type: "button", click: press }, soft(column.t)));
  }));
  const body = h("tbody", {}, rows.filter((row) => keep.has(row)).map((row) => h("tr", {
    class: row.ref ? `row ref ${row.ref}` : "row", "data-id": row.id, click: (event) => {
      if (row.id && !event.target.closest("button, a") && !getSelection().toString()) open(row, table);
    },
  }, columns.map(({ column, i }) => cellOf(row, table, column, i, state, open)))));
  const rest = methods.length - some.length;
  const more = rest > 0 ? h("p", { class: "more" }, h("button", { type: "button", click: () => { view.all = true; drawTable(view, state, matches, open); } }, `Show ${rest} more`)) : null;
  view.node.replaceChildren(
    ...wideBox(table.title, h("table", { class: "board" }, h("caption", {}, table.title), h("thead", {}, groups, head), body)),
    ...(more ? [more] : []));
  return methods.length;
}
