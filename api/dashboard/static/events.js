// The job's event stream. Uses `fetch` instead of EventSource: it can start after a given event, and receives
// messages with any event name.

const MIN_PAUSE = 500; // milliseconds
const MAX_PAUSE = 15_000;

/**
 * Follow a job's events while the page is visible. Browsers limit connections per origin, so hidden pages close
 * theirs.
 * @param {{job: string, seq: number, onEvent: () => void, hasEnded: () => boolean}} options
 * @returns {() => void} starts following; does nothing if already following or if the job has ended
 */
export function followEvents({ job, seq, onEvent, hasEnded }) {
  let last = seq;
  let pause = MIN_PAUSE;
  let active = null;

  function start() {
    if (active || document.hidden || hasEnded()) return;
    const controller = new AbortController();
    active = controller;
    follow(controller.signal).finally(() => {
      if (active === controller) active = null;
    });
  }

  async function follow(signal) {
    while (!hasEnded() && !signal.aborted) {
      try {
        await read(signal);
      } catch (error) {
        if (signal.aborted) return;
        console.debug("The event stream was interrupted; reconnecting.", error);
      }
      await new Promise((done) => setTimeout(done, pause));
      pause = Math.min(MAX_PAUSE, pause * 2);
    }
  }

  async function read(signal) {
    const headers = { Accept: "text/event-stream" };
    if (last) headers["Last-Event-ID"] = String(last);
    const response = await fetch(`/v1/jobs/${job}/events`, { headers, signal, credentials: "same-origin" });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r/);
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("id:")) continue;
        last = Math.max(last, Number(line.slice(3)));
        pause = MIN_PAUSE;
        onEvent();
      }
    }
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      active?.abort();
      active = null;
    } else {
      start();
    }
  });
  return start;
}
