"use strict";
// tables that can be sorted: by the number in data-v where there is one, else by the text
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.children[column];
        return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
      };
      const body = table.tBodies[0];
      [...body.rows].map((row) => [value(row), row])
        .sort(([a], [b]) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b))) * (up ? 1 : -1))
        .forEach(([, row]) => body.append(row));
    });
  });
}
// the layer chart: the bar under the mouse, or chosen with the arrow keys, says what it is; a click goes to its row
for (const chart of document.querySelectorAll("svg.layers")) {
  const bars = [...chart.querySelectorAll(".bar")];
  const told = document.getElementById("told");
  let at = -1;
  const show = (place) => {
    if (bars[at]) bars[at].classList.remove("on");
    at = place;
    if (!bars[at]) return;
    bars[at].classList.add("on");
    told.textContent = bars[at].dataset.t;
  };
  const go = () => {
    const row = bars[at] && document.getElementById(bars[at].dataset.row);
    if (!row) return;
    for (const other of document.querySelectorAll("tr.on")) other.classList.remove("on");
    row.classList.add("on");
    row.scrollIntoView({ block: "center" });
  };
  bars.forEach((bar, place) => {
    bar.addEventListener("mouseenter", () => show(place));
    bar.addEventListener("click", () => { show(place); go(); });
  });
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(Math.min(Math.max(at + step, 0), bars.length - 1));
    else if (event.key === "Enter") go();
    else return;
    event.preventDefault();
  });
}
