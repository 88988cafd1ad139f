"use strict";

// Tables: a button in each heading sorts by its column. Numbers by value, before text; what is missing last.
const held = (row, column) => (row.cells[column].dataset.value ?? row.cells[column].textContent).trim();
const isNumber = (text) => Number.isFinite(Number(text));

function order(a, b) {
  if (isNumber(a) && isNumber(b)) return Number(a) - Number(b);
  if (isNumber(a) !== isNumber(b)) return isNumber(a) ? -1 : 1;
  return a.localeCompare(b);
}

function sort(table, heading) {
  const direction = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const sign = direction === "ascending" ? 1 : -1;
  const column = heading.cellIndex;
  const rows = [...table.tBodies[0].rows];
  rows.sort((first, second) => {
    const [a, b] = [held(first, column), held(second, column)];
    return a && b ? sign * order(a, b) : (a === "") - (b === "");
  });
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
  table.classList.add("sorted");
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, heading));
    heading.append(button);
  }
}

// Pages: the address says which one is shown; without this script they follow one another.
const pages = [...document.querySelectorAll(".page")];
const title = document.title;

function show(isFollowed) {
  const id = decodeURIComponent(location.hash.slice(1));
  const target = document.getElementById(id);
  if (target?.id === "content" && isFollowed) return;
  const current = target?.closest(".page") ?? pages[0];
  for (const page of pages) page.hidden = id !== "all" && page !== current;
  for (const link of document.querySelectorAll("nav a")) {
    const isCurrent = link.hash === (id === "all" ? "#all" : `#${current.id}`);
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    if (isCurrent) link.parentElement.parentElement.scrollLeft = link.offsetLeft - 40;
  }
  const heading = (target ?? current).querySelector("h2, h3");
  document.title = id === "all" ? title : `${current.querySelector("h2").textContent.trim()} · ${title}`;
  if (!isFollowed && (!target || target === current)) return;
  if (target === current || id === "all") scrollTo(0, 0);
  else target?.scrollIntoView();
  if (isFollowed) heading?.focus({ preventScroll: true });
}

if (pages.length) {
  addEventListener("hashchange", () => show(true));
  show(false);
}
