"use strict";
// Tables are sorted by their headings: the heading becomes a button, by which a keyboard works too.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.textContent = "";
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const values = new Map([...body.rows].map((row) => [row, value(row.cells[column])]));
      const sorted = [...body.rows].sort((a, b) => compare(values.get(a), values.get(b), falling));
      body.append(...sorted);
    });
  });
}

function value(cell) {
  return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent;
}

// Numbers before words, whichever way: cells without a number ("-", "unmeasured") stay at the end.
function compare(a, b, falling) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  return falling ? -order : order;
}

// What is folded together would be missing on paper.
const opened = [];
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) {
    one.open = true;
    opened.push(one);
  }
});
addEventListener("afterprint", () => {
  while (opened.length) opened.pop().open = false;
});
