// Curves of several jobs on one axis: one line per job, one chart per metric.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { color, element, formatNumber, formatPercent, fractionRange, UNPLOTTED, isFraction, smoothed } from "./charts.js";

const MAX_POINTS = 400;
const HEIGHT = 260;
const NUM_COLORS = 6;
const MIN_SMOOTHED_POINTS = 80;
const FIRST = ["eval/top1", "train/loss"];
const SECONDS = [1, 2, 5, 10, 30, ...[1, 2, 5, 10, 30, 60, 120, 300, 720, 1440, 2880, 7200].map((minutes) => 60 * minutes)]; // distances of ticks
const DASHES = [[], [8, 5], [2, 4], [10, 4, 2, 4]]; // jobs with the same color differ in these

const NOTE = "The methods differ, and each one sums other terms: compare the accuracies, not the heights of these losses.";

const root = document.querySelector("[data-compare]");
const jobs = JSON.parse(root.dataset.jobs);
const haveDifferentMethods = new Set(jobs.map((job) => job.method)).size > 1;
const byTime = root.dataset.x === "time";
const list = root.querySelector("[data-chart-list]");
const select = root.querySelector("#metric");
let loaded = []; // per job a Map of series by name
let plots = [];

async function load(job) {
  const response = await fetch(`/v1/jobs/${job.id}/metrics?max_points=${MAX_POINTS}`, { credentials: "same-origin" });
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  const { series } = await response.json();
  return new Map(series.filter((each) => each.points.length).map((each) => [each.name, each.points]));
}

function draw() {
  for (const { plot } of plots) plot.destroy();
  list.replaceChildren();
  const chosen = select.value ? [select.value] : FIRST.filter((name) => loaded.some((series) => series.has(name)));
  plots = chosen.map(drawChart);
  root.querySelector("[data-charts-empty]").hidden = plots.length > 0;
}

function drawChart(name) {
  const lines = jobs.flatMap((job, index) => {
    const points = loaded[index].get(name);
    const scale = byTime ? job.secondsPerStep : 1;
    return points && scale ? [{ job, index, points: points.map(([step, value]) => [step * scale, value]) }] : [];
  });
  const percent = isFraction(name);
  const format = (value) => (value == null ? "" : percent ? formatPercent(value) : formatNumber(value));
  const figure = element("section", "chart-figure");
  const head = element("div", "chart-head");
  const legend = element("ul", "legend");
  head.append(element("h3", "", title(name)), legend);
  const chart = element("div", "chart");
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", `${title(name)} at the end: ${lines.map(({ job, points }) => `${job.label} ${format(points.at(-1)[1])}`).join(", ")}`);
  figure.append(head, chart);
  if (haveDifferentMethods && name.startsWith("train/") && !UNPLOTTED.has(name)) figure.append(element("p", "small muted", NOTE));
  list.append(figure);
  for (const { job, index } of lines) {
    const item = element("li");
    item.append(element("span", `key series-${(index % NUM_COLORS) + 1}`, String(index + 1)), element("span", "", job.label), element("b"));
    legend.append(item);
  }
  const show = (at) =>
    lines.forEach(({ points }, index) => {
      const point = at == null ? points.at(-1) : points.findLast(([x]) => x <= at);
      legend.children[index].querySelector("b").textContent = format(point?.[1]);
    });
  show(null);
  const axis = { stroke: color(figure, "axis-ink"), grid: { stroke: color(figure, "grid-ink"), width: 1 }, ticks: { show: false }, font: `12px ${getComputedStyle(figure).fontFamily}` };
  const options = {
    width: figure.clientWidth,
    height: HEIGHT,
    scales: { x: { time: false }, y: { range: percent ? fractionRange : undefined } },
    axes: [
      { ...axis, size: 28, grid: { show: false }, ...(byTime && { incrs: SECONDS, space: 90 }), values: (_, ticks) => ticks.map(byTime ? seconds : (tick) => tick.toLocaleString()) },
      { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => (percent ? formatPercent(tick, 0) : formatNumber(tick))) },
    ],
    series: [{}, ...lines.map(({ index, points }) => ({ stroke: color(figure, `series-${(index % NUM_COLORS) + 1}`), width: 2, dash: DASHES[Math.floor(index / NUM_COLORS)], spanGaps: true, points: { show: points.length < 30, size: 5 } }))],
    legend: { show: false },
    cursor: { y: false, points: { size: 7 } },
    hooks: { setCursor: [(plot) => show(plot.cursor.idx == null ? null : plot.data[0][plot.cursor.idx])] },
  };
  const tables = lines.map(({ points }) => {
    const values = points.map(([, value]) => value);
    return [points.map(([x]) => x), values.length >= MIN_SMOOTHED_POINTS ? smoothed(values) : values];
  });
  return { figure, plot: new uPlot(options, uPlot.join(tables), chart) };
}

function title(name) {
  const known = { "eval/top1": "Accuracy of the student on the test split, during training", "train/loss": "Loss of the student" };
  return known[name] ?? name.replaceAll("/", " ").replaceAll("_", " ");
}

function seconds(tick) {
  if (tick < 60) return `${tick} s`;
  return tick < 3600 ? `${Number((tick / 60).toPrecision(3))} min` : `${Number((tick / 3600).toPrecision(3))} h`;
}

/** Offer the metrics of all jobs; the choice is part of the address. */
function offerMetrics() {
  const names = [...new Set(loaded.flatMap((series) => [...series.keys()]))].sort();
  select.append(new Option("Accuracy and loss", ""), ...names.map((name) => new Option(title(name), name)));
  select.value = names.includes(root.dataset.metric) ? root.dataset.metric : "";
  select.hidden = names.length === 0;
  select.addEventListener("change", () => {
    const url = new URL(location.href);
    if (select.value) url.searchParams.set("metric", select.value);
    else url.searchParams.delete("metric");
    history.replaceState(null, "", url);
    draw();
  });
}

new ResizeObserver(() => {
  for (const { plot, figure } of plots) {
    if (figure.clientWidth && figure.clientWidth !== plot.width) plot.setSize({ width: figure.clientWidth, height: HEIGHT });
  }
}).observe(root);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

loaded = await Promise.all(jobs.map((job) => load(job).catch((error) => (console.warn(`The metrics of ${job.id} could not be loaded.`, error), new Map()))));
offerMetrics();
draw();
