// Live updates of a server-rendered page. The server renders every state; this module fetches the page again and
// replaces the regions ([data-live]) that have changed, so the templates are the only rendering code.

const served = new Map(); // region name -> the HTML from the server, before localize()

/**
 * Start refreshing the page.
 * @param {{onRefresh?: (main: HTMLElement) => void, merge?: Record<string, (region: Element, next: Element) => void>}}
 *   options `onRefresh` is called after every refresh; `merge` updates a region, by its name, in place of a replacement
 * @returns {{refresh: () => Promise<void>, submit: (form: HTMLFormElement) => Promise<void>}}
 */
export function startLive({ onRefresh = () => {}, merge = {} } = {}) {
  const main = document.querySelector("main");
  let timer = 0;
  let running = null;
  let failures = 0;

  remember(document);
  localize(document);

  async function load(url, options) {
    const response = await fetch(url, { credentials: "same-origin", headers: { Accept: "text/html" }, ...options });
    if (new URL(response.url).pathname === "/login") {
      location.reload(); // the session has ended; the server redirects to the sign-in page and back
      return;
    }
    if (response.status >= 500) throw new Error(`HTTP ${response.status}`);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!fresh.querySelector("main")) throw new Error("the response is not a dashboard page");
    update(fresh, { isFormResponse: options?.method === "POST" });
    onRefresh(main);
  }

  function update(fresh, { isFormResponse }) {
    document.title = fresh.title;
    Object.assign(main.dataset, fresh.querySelector("main").dataset);
    for (const region of document.querySelectorAll("[data-live]")) {
      const name = region.dataset.live;
      const next = fresh.querySelector(`[data-live="${CSS.escape(name)}"]`);
      if (!next || served.get(name) === next.innerHTML) continue;
      if (region.dataset.liveOn === "submit" && !isFormResponse) continue; // keep the message of the last form
      served.set(name, next.innerHTML);
      const focused = region.contains(document.activeElement) ? focusPath(document.activeElement) : null;
      const scrolled = scrollPositions(region);
      if (merge[name]) merge[name](region, next);
      else region.replaceChildren(...next.childNodes);
      localize(region);
      for (const [selector, position] of scrolled) region.querySelector(selector)?.scrollTo(position);
      if (focused) (region.querySelector(focused) ?? main).focus();
    }
  }

  function schedule() {
    clearTimeout(timer);
    const seconds = Number(main.dataset.refreshSeconds);
    if (!seconds || document.hidden) return;
    timer = setTimeout(refresh, 1000 * Math.min(20, seconds * 2 ** Math.min(failures, 4)));
  }

  /** Refresh now. Concurrent calls share one request. */
  function refresh() {
    running ??= attempt(() => load(main.dataset.url ?? location.href)).finally(() => {
      running = null;
      schedule();
    });
    return running;
  }

  async function attempt(work) {
    try {
      await work();
      failures = 0;
    } catch (error) {
      failures += 1;
      console.warn("The page could not be refreshed.", error);
    }
    // Show the notice after the second failure in a row.
    document.querySelector("[data-offline]").hidden = failures < 2;
  }

  /** Submit a form and show the resulting page without navigation. */
  async function submit(form) {
    const buttons = form.querySelectorAll("button");
    buttons.forEach((button) => (button.disabled = true));
    try {
      await load(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    } catch (error) {
      console.warn("The form could not be submitted.", error);
      failures = Math.max(failures, 2);
      document.querySelector("[data-offline]").hidden = false;
    } finally {
      buttons.forEach((button) => (button.disabled = false));
      schedule();
    }
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
  schedule();
  return { refresh, submit };
}

function remember(root) {
  for (const region of root.querySelectorAll("[data-live]")) served.set(region.dataset.live, region.innerHTML);
}

/** Show times in the local time zone. */
function localize(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    time.title = date.toLocaleString();
    if ("clock" in time.dataset) time.textContent = date.toLocaleTimeString([], { hour12: false });
  }
}

/** Positions of the scrolled elements of a region: pairs of a selector and a position. */
function scrollPositions(region) {
  return [...region.querySelectorAll("[id]")]
    .filter((element) => element.scrollTop || element.scrollLeft)
    .map((element) => [`#${CSS.escape(element.id)}`, { top: element.scrollTop, left: element.scrollLeft }]);
}

/** A selector that finds the same control after its region was replaced. */
function focusPath(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  const form = element.closest("form[action]");
  if (form) return `form[action="${CSS.escape(form.getAttribute("action"))}"] button`;
  if (element.hasAttribute("popovertarget")) return `[popovertarget="${CSS.escape(element.getAttribute("popovertarget"))}"]`;
  if (element.hasAttribute("href")) return `a[href="${CSS.escape(element.getAttribute("href"))}"]`;
  return null;
}
