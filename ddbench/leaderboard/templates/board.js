
"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const rows = all("main section .scroll > table > tbody");

function sortBy(table, column, button) {
  const head = button.parentElement;
  const number = head.classList.contains("number");
  const before = head.getAttribute("aria-sort");
  const first = number && column > 0 ? "descending" : "ascending";
  const order = before === null ? first : before === "ascending" ? "descending" : "ascending";
  for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const key = (body) => body.rows[0].cells[column].dataset.key;
  const compare = (a, b) => {
    const full = a.classList.contains("full") - b.classList.contains("full");
    const x = key(a), y = key(b);
    if (full) return full;
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const sign = order === "ascending" ? 1 : -1;
    return sign * (number ? Number(x) - Number(y) : x.localeCompare(y));
  };
  table.append(...[...table.tBodies].sort(compare));
}

for (const table of all(".scroll > table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, column, button));
    head.append(button);
  });
}

for (const body of rows) {
  const button = body.querySelector(".open");
  const more = body.querySelector(".more");
  const details = more.querySelector("details");
  button.hidden = false;
  more.hidden = true;
  const show = (open) => {
    more.hidden = !open;
    details.open = open;
    button.setAttribute("aria-expanded", String(open));
  };
  button.addEventListener("click", () => show(more.hidden));
  details.addEventListener("toggle", () => { if (!details.open) show(false); });
}

const form = document.querySelector(".filters");
if (form) {
  const [dataset, budget, search] = ["dataset", "budget", "search"].map((id) => document.getElementById(id));
  const texts = new Map(rows.map((body) => [body, body.textContent.toLowerCase()]));
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const section of all("main section")) {
      const fits = (!dataset.value || section.dataset.dataset === dataset.value)
        && (!budget.value || section.dataset.budget === budget.value);
      const title = section.querySelector("h2").textContent.toLowerCase();
      const head = section.querySelector("thead").textContent.toLowerCase();
      let here = 0;
      for (const body of all(".scroll > table > tbody", section)) {
        const text = `${title} ${head} ${texts.get(body)}`;
        body.hidden = !words.every((word) => text.includes(word));
        here += !body.hidden;
      }
      for (const preview of all("[data-row]", section)) {
        preview.hidden = document.getElementById(preview.dataset.row).parentElement.hidden;
      }
      section.hidden = !fits || here === 0;
      if (fits) shown += here;
    }
    document.getElementById("count").textContent = `${shown} of ${rows.length} rows`;
    document.getElementById("nothing").hidden = shown > 0;
  };
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}
