
"use strict";
/* Elements are made by DOM calls only: a text of the data is never parsed as markup. */
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false && child !== "") node.append(child);
  }
  return node;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];
const percent = (value) => (100 * value).toFixed(1);
const tick = (value, unit) => String(Number((unit === "fraction" ? 100 * value : value).toPrecision(6))); // of an axis: as it is
const shown = (value, unit) => (["fraction", "signed fraction"].includes(unit) ? percent(value) : unit === "points" ? value.toFixed(1) : String(Number(value.toPrecision(4))));

/* Long names break after a hyphen. */
const soft = (name) => name.split("-").flatMap((part, i) => (i ? ["-", h("wbr"), part] : [part]));

/* Only http(s) addresses and relative paths of the board become links; the builder has checked them as well. */
function link(address, text) {
  const web = /^https?:\/\//.test(address);
  if (!web && !/^results\/[a-z0-9/._-]+$/.test(address)) return document.createTextNode(text || address);
  return h("a", { href: address, rel: web ? "noopener noreferrer nofollow" : null }, text || address);
}

function bits(count) {
  const units = ["bit", "kbit", "Mbit", "Gbit", "Tbit"];
  const place = Math.max(0, Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, Number(count.toPrecision(3)))) / 3)));
  return `${Number((count / 1000 ** place).toPrecision(3))} ${units[place]}`;
}

function bytes(count) {
  let unit = "B";
  for (const next of ["kB", "MB", "GB", "TB"]) {
    if (count < 999.5) break;
    count /= 1000;
    unit = next;
  }
  return `${unit === "B" || count >= 99.95 ? count.toFixed(0) : count.toFixed(1)} ${unit}`;
}

function duration(seconds) {
  if (seconds < 99.5) return `${Number(seconds.toPrecision(3))} s`;
  return seconds < 5970 ? `${Number((seconds / 60).toPrecision(3))} min` : `${Number((seconds / 3600).toPrecision(3))} h`;
}

/* Files of rows, each one call of ddbenchRow: a page from file:// can fetch nothing, but add a script. */
const arrived = new Map();
function ddbenchRow(id, text) {
  arrived.set(id, JSON.parse(text));
}

/* What an opened row shows, in a promise; null where its file is not beside the page. */
function detailsOf(id) {
  if (arrived.has(id)) return Promise.resolve(arrived.get(id));
  return new Promise((done) => {
    const node = h("script", { src: `rows/${id}.js`, load: () => end(), error: () => end() });
    const end = () => { node.remove(); done(arrived.get(id) || null); };
    document.head.append(node);
  });
}
