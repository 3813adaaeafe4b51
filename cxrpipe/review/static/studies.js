// A list of studies by keyboard, and a filter that shows its list as soon as a choice is made.

const rows = [...document.querySelectorAll("tr[data-open]")];
const PLACE = "cxrpipe.place:" + location.pathname + location.search;
const form = document.getElementById("filter");
let current = -1;

form?.addEventListener("change", (event) => {
  if (event.target.matches("select")) submit();
});
form?.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
if ([...(form?.querySelectorAll("select") ?? [])].some(isChanged)) submit(); // chosen before this script ran
if (form && matchMedia("(max-width: 60rem)").matches) form.closest("details").open = false;

rows.forEach((row, place) => row.addEventListener("click", (event) => {
  choose(place);
  if (!event.target.closest("a")) location.assign(row.dataset.open);
}));
for (const image of document.querySelectorAll("td.film img")) {
  image.addEventListener("error", () => image.closest("td").classList.add("none"));
  if (image.complete && !image.naturalWidth) image.closest("td").classList.add("none");
}
if (rows.length) choose(Math.min(Number(sessionStorage.getItem(PLACE) ?? 0), rows.length - 1), false);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const act = {
    j: () => choose(Math.min(current + 1, rows.length - 1)),
    ArrowDown: () => choose(Math.min(current + 1, rows.length - 1)),
    k: () => choose(Math.max(current - 1, 0)),
    ArrowUp: () => choose(Math.max(current - 1, 0)),
    Enter: () => rows[current] && location.assign(rows[current].dataset.open),
    n: () => document.querySelector("a[rel=next]")?.click(),
    p: () => document.querySelector("a[rel=prev]")?.click(),
    "/": () => form?.elements.text.focus(),
  }[event.key];
  if (!act || (event.key === "Enter" && event.target.closest("a, button, summary"))) return;
  event.preventDefault();
  act();
});

function choose(place, scroll = true) {
  if (!rows.length) return;
  rows[current]?.removeAttribute("aria-current");
  current = place;
  rows[current].setAttribute("aria-current", "true");
  sessionStorage.setItem(PLACE, String(current));
  if (scroll) rows[current].scrollIntoView({ block: "nearest" });
}

/** Whether a choice differs from the one with which the page came. */
function isChanged(select) {
  const original = [...select.options].findIndex((option) => option.defaultSelected);
  return select.selectedIndex !== Math.max(original, 0);
}

/** Opens the list with only the conditions that say something, so that its address is short. */
function submit() {
  const asked = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value.trim()) asked.set(name, value.trim());
  const query = asked.toString();
  location.assign(form.action + (query ? `?${query}` : ""));
}
