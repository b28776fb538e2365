import { Charts } from "./charts.js";
import { followEvents } from "./events.js";
import { startLive } from "./live.js";

const main = document.querySelector("main");
const { job, seq } = main.dataset;
const isOver = () => main.dataset.terminal === "yes";

const charts = new Charts(document.querySelector("[data-charts]"), `/v1/jobs/${job}/metrics`);
const live = startLive({ onFresh: () => charts.load() });
charts.load();

let soon = 0;
function refreshSoon() {
  clearTimeout(soon); // events come in bursts; one look is enough for all of them
  soon = setTimeout(live.refresh, 120);
}
const follow = followEvents({ job, seq: Number(seq), onEvent: refreshSoon, isOver });
follow();

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form[data-move]");
  if (!form) return;
  event.preventDefault();
  form.closest("[popover]")?.hidePopover();
  await live.submit(form);
  follow(); // a retry brings an ended job back to life
});
