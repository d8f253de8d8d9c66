
/* Two rows of a table side by side: differences paired by network seed, as ddbench.statistics.paired_difference. */
const T975 = [
  12.7062047362, 4.30265272975, 3.18244630528, 2.7764451052, 2.57058183564, 2.44691185114, 2.36462425159, 2.3060041352, 2.2621571628, 2.22813885199,
  2.20098516009, 2.17881282967, 2.16036865646, 2.14478668792, 2.13144954556, 2.11990529922, 2.10981557783, 2.10092204024, 2.09302405441, 2.08596344727,
  2.07961384473, 2.0738730679, 2.06865761042, 2.06389856163, 2.05953855275, 2.05552943864, 2.05183051648, 2.0484071418, 2.04522964213, 2.0422724563,
];

/* Student's quantile for a 95 % interval: a table, and its expansion in 1 / degrees beyond. */
function quantile(degrees) {
  if (degrees <= T975.length) return T975[degrees - 1];
  const z = 1.959963984540054;
  const terms = [z ** 3 + z, 5 * z ** 5 + 16 * z ** 3 + 3 * z, 3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z, 79 * z ** 9 + 776 * z ** 7 + 1482 * z ** 5 - 1920 * z ** 3 - 945 * z];
  return [4, 96, 384, 92160].reduce((sum, divisor, i) => sum + terms[i] / (divisor * degrees ** (i + 1)), z);
}

/* Of `[seed, value]` lists: mean of ours - theirs, half of its interval (null for one seed), number of common seeds. */
function paired(ours, theirs) {
  const other = new Map(theirs);
  const differences = ours.filter(([seed]) => other.has(seed)).map(([seed, value]) => value - other.get(seed));
  const n = differences.length;
  if (!n) return null;
  const mean = differences.reduce((a, b) => a + b, 0) / n;
  if (n === 1) return { mean, half: null, n };
  const variance = differences.reduce((sum, d) => sum + (d - mean) ** 2, 0) / (n - 1);
  return { mean, half: quantile(n - 1) * Math.sqrt(variance / n), n };
}

const average = (runs) => runs.reduce((sum, [, value]) => sum + value, 0) / runs.length;

/* Rows that can be compared: of one synset each. */
const comparable = (table) => table.rows.filter((row) => row.id && !row.n);
const rowTitle = (row) => (row.e[1][3] ? `${row.e[1][0]} (${row.e[1][3]})` : row.e[1][0]);
const signed = (value, unit) => (value < 0 ? "−" : "+") + shown(Math.abs(value), unit);

/* The interval of a difference, which ends where the possible does, as ddbench.statistics.range_words. */
function ends({ mean, half }, unit) {
  const most = { fraction: 1, points: 100 }[unit] || Infinity, [low, high] = [mean - half, mean + half];
  if (low < -most && high > most) return "too few seeds for an interval";
  return `${signed(Math.max(low, -most), unit)} to ${signed(Math.min(high, most), unit)}${low < -most || high > most ? ", clipped" : ""}`;
}

function verdict({ mean, half }, better) {
  if (half === null) return "one seed";
  if (mean - half <= 0 && mean + half >= 0) return "tie";
  return mean > 0 === (better === "higher") ? "better" : "worse";
}

/* The table of two rows: each student's accuracy with the difference, then cost. */
function comparison(row, other, table, ours, its) {
  const [mine, theirs] = [ours.results[0], its.results[0]];
  const run = new Map(theirs.runs);
  const order = ([student]) => table.students.indexOf(student); // the student that ranks comes first
  const lines = mine.runs.filter(([student]) => run.has(student)).sort((a, b) => order(a) - order(b)).map(([student, metrics]) => {
    const [a, b] = [metrics[0], run.get(student)[0]];
    const unit = ours.texts[a[2]];
    const alone = mine.fixed || theirs.fixed; // the runs of a fixed network are one, and are paired with nothing
    const found = alone ? { mean: average(a[3]) - average(b[3]), half: null, n: "–" } : paired(a[3], b[3]);
    const interval = found && found.half !== null ? ` (${ends(found, unit)})` : "";
    return [student, a[1], b[1], found ? signed(found.mean, unit) + interval : "–", found ? found.n : 0, alone ? "one network" : found ? verdict(found, table.better) : "no common seed"];
  });
  for (const name of ["stored", "after zstd", "distillation"]) {
    const i = table.columns.findIndex((column) => ["cost", "rate"].includes(column.g) && column.t === name);
    const [a, b] = [row.e[i], other.e[i]];
    if (a && b) lines.push([name, a[0], b[0], b[1] > 0 ? `× ${Number((a[1] / b[1]).toPrecision(3))}` : "–", "", ""]);
  }
  const pictures = [[row, mine], [other, theirs]].map(([one, result]) => preview(result, one.m)).filter(Boolean);
  return [
    simpleTable(["student", row.e[1][0], other.e[1][0], "difference (95 % interval)", "paired seeds", "this row is"], lines, [1, 2, 3, 4]),
    row.t !== other.t ? h("p", { class: "soft" }, "Another teacher labelled: the two differ by more than their images.") : null,
    pictures.length === 2 ? h("div", { class: "pair" }, pictures) : null,
  ];
}

/* The choice of another row of the table, and what it gives; `chosen(id)` is told. */
function compareSection(row, table, wanted, chosen) {
  const others = comparable(table).filter((one) => one.id !== row.id);
  if (!others.length || row.n) return null;
  const hold = h("div", { "aria-live": "polite" });
  const select = h("select", { id: "compare", "aria-label": "Compare with another row" }, h("option", { value: "" }, "another row"), others.map((one) => h("option", { value: one.id }, rowTitle(one))));
  const draw = async () => {
    const other = others.find((one) => one.id === select.value);
    chosen(other ? other.id : null);
    const found = other ? await Promise.all([row, other].map((one) => detailsOf(one.id))) : [];
    if (select.value !== (other ? other.id : "")) return; // another one was chosen meanwhile
    hold.replaceChildren(...(!other ? [] : found.every(Boolean) ? comparison(row, other, table, ...found).filter(Boolean) : [missingRow(found[0] ? other : row)]));
  };
  select.addEventListener("change", draw);
  if (others.some((one) => one.id === wanted)) select.value = wanted;
  draw();
  return h("section", { class: "compare", "aria-label": "Compare" }, h("p", {}, h("label", {}, h("b", {}, "Compare with "), select)), hold);
}
