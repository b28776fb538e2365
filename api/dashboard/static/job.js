import { Charts } from "./charts.js";
import { followEvents } from "./events.js";
import { startLive } from "./live.js";

const main = document.querySelector("main");
const { job, seq } = main.dataset;
const hasEnded = () => main.dataset.terminal === "yes";

const charts = new Charts(document.querySelector("[data-charts]"), `/v1/jobs/${job}/metrics`);
const live = startLive({ onRefresh: () => charts.load() });
charts.load();

let timer = 0;
function scheduleRefresh() {
  clearTimeout(timer); // events come in bursts; refresh once per burst
  timer = setTimeout(live.refresh, 120);
}
const follow = followEvents({ job, seq: Number(seq), onEvent: scheduleRefresh, hasEnded });
follow();

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form[data-action]");
  if (!form) return;
  event.preventDefault();
  form.closest("[popover]")?.hidePopover();
  await live.submit(form);
  follow(); // a retry restarts a job that had ended
});
