// Keeps a server-rendered page fresh. The server renders every state; this module asks for the page
// again and puts in what changed, region by region ([data-live]), so there is one way to draw a job.

const served = new Map(); // region name -> the HTML as the server sent it, before localise() touched it

/**
 * Start to refresh the page.
 * @param {{onFresh?: (main: HTMLElement) => void}} options called after every refresh
 * @returns {{refresh: () => Promise<void>, submit: (form: HTMLFormElement) => Promise<void>}}
 */
export function startLive({ onFresh = () => {} } = {}) {
  const main = document.querySelector("main");
  let timer = 0;
  let running = null;
  let failures = 0;

  remember(document);
  localise(document);

  async function load(url, options) {
    const answer = await fetch(url, { credentials: "same-origin", headers: { Accept: "text/html" }, ...options });
    if (new URL(answer.url).pathname === "/login") {
      location.reload(); // the session has ended; the server sends us to the gate and back
      return;
    }
    if (answer.status >= 500) throw new Error(`HTTP ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!fresh.querySelector("main")) throw new Error("this is not one of our pages");
    put(fresh, { answersForm: options?.method === "POST" });
    onFresh(main);
  }

  function put(fresh, { answersForm }) {
    document.title = fresh.title;
    Object.assign(main.dataset, fresh.querySelector("main").dataset);
    for (const region of document.querySelectorAll("[data-live]")) {
      const name = region.dataset.live;
      const next = fresh.querySelector(`[data-live="${CSS.escape(name)}"]`);
      if (!next || served.get(name) === next.innerHTML) continue;
      if (region.dataset.liveOn === "submit" && !answersForm) continue; // what a form said stays to be read
      served.set(name, next.innerHTML);
      const held = region.contains(document.activeElement) ? focusPath(document.activeElement) : null;
      const scrolled = region.firstElementChild?.scrollTop ?? 0;
      region.replaceChildren(...next.childNodes);
      localise(region);
      if (scrolled && region.firstElementChild) region.firstElementChild.scrollTop = scrolled;
      if (held) (region.querySelector(held) ?? main).focus();
    }
  }

  function schedule() {
    clearTimeout(timer);
    const seconds = Number(main.dataset.refreshSeconds);
    if (!seconds || document.hidden) return;
    timer = setTimeout(refresh, 1000 * Math.min(20, seconds * 2 ** Math.min(failures, 4)));
  }

  /** Ask now. Calls that come while one is on its way share it. */
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
    // One failed request is a hiccup; two are worth telling.
    document.querySelector("[data-lost]").hidden = failures < 2;
  }

  /** Send a form and show the page that it leads to, without leaving this one. */
  async function submit(form) {
    const buttons = form.querySelectorAll("button");
    buttons.forEach((button) => (button.disabled = true));
    try {
      await load(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    } catch (error) {
      console.warn("The form could not be sent.", error);
      failures = Math.max(failures, 2);
      document.querySelector("[data-lost]").hidden = false;
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

/** Times in the reader's own zone. */
function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    time.title = moment.toLocaleString();
    if ("clock" in time.dataset) time.textContent = moment.toLocaleTimeString([], { hour12: false });
  }
}

/** A selector that finds the same control after its region was drawn anew. */
function focusPath(element) {
  const form = element.closest("form[action]");
  if (form) return `form[action="${CSS.escape(form.getAttribute("action"))}"] button`;
  if (element.hasAttribute("popovertarget")) return `[popovertarget="${CSS.escape(element.getAttribute("popovertarget"))}"]`;
  if (element.hasAttribute("href")) return `a[href="${CSS.escape(element.getAttribute("href"))}"]`;
  return null;
}
