// The job list: live updates, further pages on scrolling, and the count of selected jobs.

import { startLive } from "./live.js";

const main = document.querySelector("main");
const isPage = new URLSearchParams(location.search).has("after");
let loading = false;

/** Update the rows of the first page in place; rows of further pages stay. */
function mergeRows(region, next) {
  const body = region.querySelector("tbody");
  const fresh = [...next.querySelectorAll("tbody tr")];
  const hasMore = body && body.rows.length > fresh.length;
  if (!body || !fresh.length) {
    region.replaceChildren(...next.childNodes);
    return;
  }
  const existing = new Map([...body.rows].map((row) => [row.dataset.job, row]));
  const freshIds = new Set(fresh.map((row) => row.dataset.job));
  const last = Math.max(...[...body.rows].map((row, index) => (freshIds.has(row.dataset.job) ? index : -1)));
  [...body.rows].forEach((row, index) => {
    const isGone = index < last || !hasMore; // deleted, or moved to the next page
    if (isGone && !freshIds.has(row.dataset.job)) row.remove();
  });
  fresh.forEach((row, index) => {
    const old = existing.get(row.dataset.job);
    const current = old && old.innerHTML === row.innerHTML ? old : row;
    if (old && current !== old) {
      current.querySelector("input").checked = old.querySelector("input").checked;
      old.replaceWith(current);
    }
    if (body.rows[index] !== current) body.insertBefore(current, body.rows[index] ?? null);
  });
  if (!hasMore) replacePager(region, next);
  countSelected(); // a selected job may have ended
}

function replacePager(region, next) {
  region.querySelector(".pager")?.remove();
  const pager = next.querySelector(".pager");
  if (pager) region.append(pager);
  observe();
}

const observer = new IntersectionObserver(
  (entries) => {
    if (entries.some((entry) => entry.isIntersecting)) loadMore();
  },
  { rootMargin: "600px" },
);

function observe() {
  observer.disconnect();
  const link = main.querySelector('.pager a[rel="next"]');
  if (link) observer.observe(link);
}

async function loadMore() {
  const link = main.querySelector('.pager a[rel="next"]');
  if (!link || loading) return;
  loading = true;
  try {
    const response = await fetch(link.href, { credentials: "same-origin", headers: { Accept: "text/html" } });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const body = main.querySelector("tbody");
    const shown = new Set([...body.rows].map((row) => row.dataset.job));
    const rows = [...page.querySelectorAll("tbody tr")].filter((row) => !shown.has(row.dataset.job));
    body.append(...rows);
    link.closest(".pager").replaceChildren(...(page.querySelector('.pager a[rel="next"]') ? [page.querySelector('.pager a[rel="next"]')] : []));
    main.querySelector("[data-loaded]").textContent = `${body.rows.length} jobs are shown.`;
  } catch (error) {
    console.warn("The next jobs could not be loaded.", error);
  } finally {
    loading = false;
    observe(); // fires again if the link is still in view
  }
}

function countSelected() {
  const rows = [...main.querySelectorAll('input[name="jobs"]:checked')].map((box) => box.closest("tr"));
  const numEnded = rows.filter((row) => row.dataset.terminal === "yes").length;
  const hasNone = { cancel: numEnded === rows.length, delete: numEnded === 0 };
  for (const button of main.querySelectorAll("#bulk button[name=action]")) button.disabled = rows.length > 0 && hasNone[button.value];
  const note = !rows.length ? "" : hasNone.cancel ? (rows.length > 1 ? ", all have ended" : ", has ended") : hasNone.delete ? ", cancel first to delete" : "";
  main.querySelector("[data-selected]").textContent = `${rows.length} selected${note}`;
}

/** Add a checkbox that selects all jobs of the list. */
function addSelectAll() {
  const head = main.querySelector("thead .job-select");
  if (!head) return;
  const box = document.createElement("input");
  box.type = "checkbox";
  box.setAttribute("aria-label", "Select all jobs shown");
  box.addEventListener("change", () => {
    for (const other of main.querySelectorAll('input[name="jobs"]')) other.checked = box.checked;
    countSelected();
  });
  head.replaceChildren(box);
}

// Only one menu is open; Escape and a click elsewhere close it.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});
main.addEventListener("change", (event) => event.target.name === "jobs" && countSelected());

startLive({ merge: { jobs: mergeRows } });
addSelectAll();
countSelected();
if (!isPage) observe();
