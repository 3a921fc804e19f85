"use strict";
const collator = new Intl.Collator("en", { numeric: true });
function sortBy(th) {
  const table = th.closest("table");
  const place = [...th.parentNode.children].indexOf(th);
  const down = th.getAttribute("aria-sort") === "ascending";
  for (const other of th.parentNode.children) other.setAttribute("aria-sort", "none");
  th.setAttribute("aria-sort", down ? "descending" : "ascending");
  const numeric = [...table.tBodies[0].rows].some((row) => "v" in row.cells[place].dataset);
  const key = (row) => {
    const cell = row.cells[place];
    if (!numeric) return cell.textContent;
    return "v" in cell.dataset ? Number(cell.dataset.v) : null;
  };
  const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = numeric ? a - b : collator.compare(a, b);
    return down ? -order : order;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}
for (const button of document.querySelectorAll("th > button"))
  button.addEventListener("click", () => sortBy(button.parentNode));

const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  label();
});
dark.addEventListener("change", label);
theme.hidden = false;
label();

// a box is a stop of the tab key only while it scrolls
const boxes = new ResizeObserver((seen) => {
  for (const { target } of seen)
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
});
for (const box of document.querySelectorAll(".scroll")) boxes.observe(box);
