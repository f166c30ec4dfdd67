"use strict";
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
// Plots are drawn in the page's own colours and as wide as the page lets them be.
const PAPER = 330;  // pixels of a plot on paper: two beside each other
const dark = matchMedia("(prefers-color-scheme: dark)");
const plots = [...document.querySelectorAll(".plot")].map(place => {
  place.replaceChildren();
  return { place, figure: JSON.parse(place.nextElementSibling.textContent) };
});
const settings = {
  displaylogo: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],  // none that would ask a server
};
function coloured(value, style) {
  if (typeof value === "string") return value.startsWith("var(--") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
  if (Array.isArray(value)) return value.map(each => coloured(each, style));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, coloured(each, style)]));
}
async function draw({ place, figure }, width) {
  const { data, layout } = coloured(figure, getComputedStyle(document.documentElement));
  layout.width = width ?? place.clientWidth;
  layout.font.family = layout.hoverlabel.font.family = getComputedStyle(document.body).fontFamily;
  if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false;  // a finger moves the page
  await Plotly.react(place, data, layout, settings);
  // The legend and long names take their room from between the axes: it is given back. A legend takes at most half of
  // a plot, so it may then take more.
  for (let tries = 0, missing = Infinity; tries < 4 && Math.abs(missing) > 1; tries++) {
    missing = layout.meta.area - place.querySelector(".nsewdrag").getBBox().height;
    layout.height = Math.round(layout.height + missing);
    await Plotly.relayout(place, { height: layout.height });
  }
}
let turn = 0, width = innerWidth;
async function drawAll() {
  const own = ++turn;
  for (const plot of plots) {
    if (own !== turn) return;  // a later one draws in another size or other colours
    await draw(plot);
    await new Promise(done => setTimeout(done));  // texts and tables are there meanwhile
  }
}
addEventListener("resize", () => {
  if (innerWidth === width) return;  // a telephone's bars come and go
  width = innerWidth;
  drawAll();
});
dark.addEventListener("change", drawAll);
addEventListener("beforeprint", () => {
  turn++;
  document.documentElement.classList.add("paper");
  plots.forEach(plot => draw(plot, PAPER));
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("paper");
  drawAll();
});
drawAll();
