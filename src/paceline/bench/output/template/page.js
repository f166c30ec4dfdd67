"use strict";
// Values under the pointer: the mark of the plot that lies nearest.
const tip = document.getElementById("tip");
for (const svg of document.querySelectorAll("figure svg")) {
  const marks = [...svg.querySelectorAll("[data-t]")];
  let near = null;
  const leave = () => { near?.classList.remove("near"); near = null; tip.hidden = true; };
  svg.addEventListener("pointerleave", leave);
  const point = event => {
    const frame = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / frame.width;
    const x = (event.clientX - frame.left) * scale, y = (event.clientY - frame.top) * scale;
    let best = null, least = 40;
    for (const mark of marks) {
      if (mark.parentNode.classList.contains("off")) continue;
      const box = mark.box ??= mark.getBBox();
      const distance = Math.hypot(Math.max(box.x - x, 0, x - box.x - box.width), Math.max(box.y - y, 0, y - box.y - box.height));
      if (distance < least) { best = mark; least = distance; }
    }
    if (best === null) { leave(); return; }
    if (best !== near) { near?.classList.remove("near"); near = best; near.classList.add("near"); }
    tip.textContent = best.dataset.t;
    tip.hidden = false;
    const beside = event.clientX + 14, above = event.clientY - tip.offsetHeight - 12;
    tip.style.left = Math.max(4, Math.min(beside, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = (above < 4 ? event.clientY + 18 : above) + "px";
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
}
// A series is hidden and shown again by its name in the legend.
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(shown));
    for (const group of button.closest("figure").querySelectorAll(`g[data-s="${button.dataset.s}"]`)) {
      group.classList.toggle("off", !shown);
    }
  });
}
// Tables are sorted by a click on a column's title; the third click brings back the first order.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], order = [...body.rows], titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[title.getAttribute("aria-sort")];
      const way = next === undefined ? "ascending" : next;
      titles.forEach(other => other.removeAttribute("aria-sort"));
      if (way) title.setAttribute("aria-sort", way);
      table.classList.toggle("sorted", way !== null);
      body.append(...(way ? [...order].sort((a, b) => compare(a, b, column, way === "descending" ? -1 : 1)) : order));
    });
  });
}
function compare(first, second, column, sign) {
  const a = first.cells[column].dataset.v, b = second.cells[column].dataset.v;
  if (a === "" || b === "") return (a === "") - (b === "");  // no value: last, whichever the order
  const difference = Number.isNaN(Number(a)) || Number.isNaN(Number(b)) ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  return sign * difference;
}
