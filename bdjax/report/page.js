"use strict";
const value = (cell) => {
  const given = cell.dataset.value;
  if (given === undefined) return cell.textContent.trim();
  return given === "" ? NaN : Number(given);
};
const compare = (a, b) =>
  typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : isNaN(a) - isNaN(b) || a - b;

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const sort = (head, falling) => {
    const column = head.cellIndex;
    const turn = (a, b) => (a !== a || b !== b || !falling ? compare(a, b) : compare(b, a));
    body.append(...[...rows].sort((a, b) => turn(value(a.cells[column]), value(b.cells[column]))));
    for (const other of heads) other.ariaSort = other !== head ? "none" : falling ? "descending" : "ascending";
  };
  for (const head of heads) {
    head.firstElementChild.addEventListener("click", () => sort(head, head.ariaSort === "ascending"));
  }
  const asked = /^#sort=(-?)(\w+)$/.exec(location.hash);
  const head = asked && table.id === "table" && heads.find((one) => one.firstElementChild.dataset.key === asked[2]);
  if (head) sort(head, asked[1] === "-");
  const filter = table.closest("section").querySelector("input[type=search]");
  filter?.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
}

const keys = [...document.querySelectorAll(".legend button")];
const bringOut = (series) => {
  for (const one of document.querySelectorAll("figure [data-series]")) {
    one.classList.toggle("faded", series !== undefined && one.dataset.series !== series);
  }
};
const pinned = () => keys.find((key) => key.ariaPressed === "true")?.dataset.series;
for (const key of keys) {
  key.addEventListener("click", () => {
    const pin = key.ariaPressed !== "true";
    for (const other of keys) other.ariaPressed = String(pin && other.dataset.series === key.dataset.series);
    bringOut(pinned());
  });
  key.addEventListener("pointerenter", () => bringOut(key.dataset.series));
  key.addEventListener("pointerleave", () => bringOut(pinned()));
}
