// The job's event stream. `fetch` instead of EventSource: it can begin behind a given event, and it sees
// every message whatever its event name.

const FIRST_PAUSE = 500; // milliseconds
const LONGEST_PAUSE = 15_000;

/**
 * Follow a job's events while the page is visible; a browser has few connections for one origin, and
 * hidden pages must not hold them.
 * @param {{job: string, seq: number, onEvent: () => void, isOver: () => boolean}} options
 * @returns {() => void} starts to follow; does nothing while it is followed already, or over
 */
export function followEvents({ job, seq, onEvent, isOver }) {
  let last = seq;
  let pause = FIRST_PAUSE;
  let open = null;

  function start() {
    if (open || document.hidden || isOver()) return;
    const controller = new AbortController();
    open = controller;
    follow(controller.signal).finally(() => {
      if (open === controller) open = null;
    });
  }

  async function follow(signal) {
    while (!isOver() && !signal.aborted) {
      try {
        await read(signal);
      } catch (error) {
        if (signal.aborted) return;
        console.debug("The event stream broke; it is opened again.", error);
      }
      await new Promise((done) => setTimeout(done, pause));
      pause = Math.min(LONGEST_PAUSE, pause * 2);
    }
  }

  async function read(signal) {
    const headers = { Accept: "text/event-stream" };
    if (last) headers["Last-Event-ID"] = String(last);
    const answer = await fetch(`/v1/jobs/${job}/events`, { headers, signal, credentials: "same-origin" });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r/);
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("id:")) continue;
        last = Math.max(last, Number(line.slice(3)));
        pause = FIRST_PAUSE;
        onEvent();
      }
    }
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      open?.abort();
      open = null;
    } else {
      start();
    }
  });
  return start;
}
