// Plots of the project's usage by day, drawn with uPlot from /v1/usage/history.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { color, element } from "./charts.js";

const HEIGHT = 190;
const DAY_SECONDS = 86_400;
const root = document.querySelector("[data-usage]");
const utcDate = (timestamp) => uPlot.tzDate(new Date(timestamp * 1000), "Etc/UTC");

const PLOTS = [
  {
    title: "Jobs",
    bars: true,
    series: [
      { label: "created", style: "series-2", value: (day) => day.jobs_created },
      { label: "ended", style: "series-1", value: (day) => day.jobs_ended },
    ],
    format: (value) => value.toLocaleString(),
    incrs: [1, 2, 5].flatMap((step) => [1, 10, 100, 1000, 10_000, 100_000].map((scale) => step * scale)).sort((a, b) => a - b),
    minTop: 4,
  },
  {
    title: "Device time",
    bars: true,
    series: [{ label: "device time", style: "series-3", value: (day) => day.device_seconds }],
    format: formatSeconds,
    incrs: [10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 18_000, 36_000, 72_000, 180_000, 360_000, 720_000, 1_800_000, 3_600_000],
    minTop: 60,
  },
  { title: "Stored files", series: [{ label: "stored", style: "series-4", value: (day) => day.stored_bytes }], format: formatBytes },
];

function formatSeconds(seconds) {
  if (seconds >= 3600) return `${Number((seconds / 3600).toPrecision(3))} h`;
  return seconds >= 60 ? `${Number((seconds / 60).toPrecision(3))} min` : `${Number(seconds.toPrecision(3))} s`;
}

function formatBytes(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let power = 0;
  while (bytes >= 999.5 && power < units.length - 1) {
    bytes /= 1000;
    power += 1;
  }
  return `${Number(bytes.toPrecision(3))} ${units[power]}`;
}

class UsagePlot {
  constructor(settings, days) {
    this.settings = settings;
    this.days = days;
    this.figure = element("section", "chart-figure");
    const head = element("div", "chart-head");
    this.legend = element("ul", "legend");
    head.append(element("h3", "", settings.title), this.legend);
    this.chart = element("div", "chart");
    this.chart.setAttribute("role", "img");
    this.figure.append(head, this.chart);
    root.querySelector("[data-usage-plots]").append(this.figure);
    for (const series of settings.series) {
      const item = element("li");
      item.append(element("span", `swatch ${series.style}`), element("span", "", series.label), element("b"));
      this.legend.append(item);
    }
    const totals = settings.series.map((series) => `${series.label} ${settings.format(this.#summary(series))}`);
    this.chart.setAttribute("aria-label", `${settings.title} of ${days.length} days: ${totals.join(", ")}`);
    this.draw();
  }

  /** The sum of bars, or the last value of a line. */
  #summary(series) {
    const values = this.days.map(series.value);
    return this.settings.bars ? values.reduce((sum, value) => sum + value, 0) : values.at(-1);
  }

  draw() {
    this.plot?.destroy();
    const { settings, days } = this;
    const times = days.map((day) => Date.parse(`${day.date}T00:00:00Z`) / 1000);
    const data = [times, ...settings.series.map((series) => days.map(series.value))];
    const font = `12px ${getComputedStyle(this.figure).fontFamily}`;
    const axis = { font, stroke: color(this.figure, "axis-ink"), grid: { stroke: color(this.figure, "grid-ink"), width: 1 }, ticks: { show: false } };
    const options = {
      width: this.figure.clientWidth,
      height: HEIGHT,
      tzDate: utcDate,
      scales: {
        x: { time: true, range: [times[0] - DAY_SECONDS / 2, times.at(-1) + DAY_SECONDS / 2] },
        y: { range: (_, min, max) => [0, Math.max(max * 1.05, settings.minTop ?? 1000)] },
      },
      axes: [
        { ...axis, size: 28, grid: { show: false }, space: 70, values: (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toLocaleDateString([], { day: "numeric", month: "short", timeZone: "UTC" })), incrs: [DAY_SECONDS, 2 * DAY_SECONDS, 7 * DAY_SECONDS, 14 * DAY_SECONDS, 28 * DAY_SECONDS] },
        { ...axis, size: 66, incrs: settings.incrs, values: (_, ticks) => ticks.map(settings.format) },
      ],
      series: [{}, ...settings.series.map((series, index) => this.#series(series, index))],
      legend: { show: false },
      cursor: { y: false, points: { show: !settings.bars, size: 7 } },
      hooks: { setCursor: [(plot) => this.#showValues(plot.cursor.idx)] },
    };
    this.plot = new uPlot(options, data, this.chart);
    this.#showValues(null);
  }

  #series(series, index) {
    const stroke = color(this.figure, series.style);
    if (!this.settings.bars) return { stroke, width: 2, fill: `color-mix(in oklab, ${stroke} 12%, transparent)`, points: { show: false } };
    const count = this.settings.series.length;
    const align = count === 1 ? 0 : index === 0 ? -1 : 1;
    return { stroke, fill: stroke, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [count === 1 ? 0.6 : 0.38, 40], align }) };
  }

  /** Show the values of the day at the cursor, or the sums without one. */
  #showValues(index) {
    this.settings.series.forEach((series, at) => {
      const value = index == null ? this.#summary(series) : series.value(this.days[index]);
      this.legend.children[at].querySelector("b").textContent = this.settings.format(value);
    });
  }

  resize() {
    if (this.figure.clientWidth && this.figure.clientWidth !== this.plot.width) this.plot.setSize({ width: this.figure.clientWidth, height: HEIGHT });
  }
}

function fillTable(days) {
  const rows = [...days].reverse().map((day) => {
    const row = element("tr");
    const head = element("th", "", day.date);
    head.scope = "row";
    const cells = [day.jobs_created.toLocaleString(), day.jobs_ended.toLocaleString(), formatSeconds(day.device_seconds), formatBytes(day.stored_bytes)];
    row.append(head, ...cells.map((text) => element("td", "number", text)));
    return row;
  });
  root.querySelector("[data-usage-rows]").replaceChildren(...rows);
  root.querySelector("[data-usage-details]").hidden = false;
}

async function load() {
  const message = root.querySelector("[data-usage-empty]");
  try {
    const response = await fetch(root.dataset.url, { credentials: "same-origin" });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const { days } = await response.json();
    const plots = PLOTS.map((settings) => new UsagePlot(settings, days));
    fillTable(days);
    message.hidden = true;
    new ResizeObserver(() => plots.forEach((plot) => plot.resize())).observe(root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach((plot) => plot.draw()));
  } catch (error) {
    console.warn("The usage could not be loaded.", error);
    message.textContent = "The figures could not be loaded. Reload the page to try again.";
  }
}

load();
