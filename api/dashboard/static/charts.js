// Charts of a job's metrics, drawn with uPlot from /v1/jobs/ID/metrics.

import uPlot from "./vendor/uplot/uPlot.esm.js";

const HEIGHT = 210;
const MAX_POINTS = 600;
const MIN_SMOOTHED_POINTS = 80; // shorter series are not smoothed
const MAX_MARKED_POINTS = 29; // longer series have no markers
const FREE_COLORS = [4, 5, 6]; // of series that belong to neither student, teacher nor baseline

const FRACTION = /(top1|top5|accuracy|agreement)$/;
export const isFraction = (name) => FRACTION.test(name);
export const formatPercent = (fraction, digits = 1) => `${(100 * fraction).toFixed(digits)}\u00a0%`;
export const formatNumber = (value) => String(Number(value.toPrecision(4)));

export const UNPLOTTED = new Set(["train/learning_rate", "train/gradient_norm"]);

// In display order. A series belongs to the first group that accepts it.
const GROUPS = [
  {
    title: "Accuracy on the test split",
    accepts: (name) => FRACTION.test(name) && !name.includes("augmented"),
    percent: true,
    note: "Measured during the training, on at most 2,000 of the test images. When the job ends, the last points are those of the final networks.",
  },
  { title: "Student loss", accepts: (name) => name.startsWith("train/") && !UNPLOTTED.has(name) },
  { title: "Teacher loss", accepts: (name) => name.startsWith("teacher/") && name.endsWith("loss") },
];

/** Draws the charts into `root` and updates them. */
export class Charts {
  #root;
  #url;
  #drawn = new Map(); // title -> {plot, figure, shape}
  #groups = [];
  #busy = false;

  constructor(root, url) {
    this.#root = root;
    this.#url = url;
    new ResizeObserver(() => this.#resize()).observe(root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#redraw());
  }

  /** Fetch the series and draw them. After a failure the charts stay unchanged. */
  async load() {
    if (this.#busy) return;
    this.#busy = true;
    try {
      const response = await fetch(`${this.#url}?max_points=${MAX_POINTS}`, { credentials: "same-origin" });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      this.#groups = grouped((await response.json()).series);
      this.#draw();
    } catch (error) {
      console.warn("The metrics could not be loaded.", error);
    } finally {
      this.#busy = false;
    }
  }

  #draw() {
    this.#root.querySelector("[data-charts-empty]").hidden = this.#groups.length > 0;
    for (const group of this.#groups) {
      const shape = group.series.map(shapeOf).join();
      const drawn = this.#drawn.get(group.title);
      const data = aligned(group);
      if (drawn && drawn.shape === shape) {
        drawn.plot.setData(data);
      } else {
        drawn?.plot.destroy();
        const figure = drawn?.figure ?? this.#figure(group);
        this.#drawn.set(group.title, { figure, shape, plot: this.#plot(figure, group, data) });
      }
      describe(this.#drawn.get(group.title).figure, group);
    }
  }

  #redraw() {
    for (const { plot } of this.#drawn.values()) plot.destroy();
    for (const drawn of this.#drawn.values()) drawn.shape = null;
    this.#draw();
  }

  #figure({ title, note }) {
    const figure = element("section", "chart-figure");
    const head = element("div", "chart-head");
    head.append(element("h3", "", title), element("ul", "legend"));
    const chart = element("div", "chart");
    chart.setAttribute("role", "img");
    figure.append(head, chart);
    if (note) figure.append(element("p", "small muted", note));
    const list = this.#root.querySelector("[data-chart-list]");
    const position = GROUPS.findIndex((group) => group.title === title);
    const next = [...list.children].find(
      (other) => GROUPS.findIndex((group) => group.title === other.querySelector("h3").textContent) > position,
    );
    list.insertBefore(figure, next ?? null);
    return figure;
  }

  #plot(figure, group, data) {
    const legend = figure.querySelector(".legend");
    legend.replaceChildren(...group.series.map((series) => entry(series, group)));
    const ink = (className) => color(figure, className);
    const format = group.percent ? (value) => formatPercent(value, 0) : formatNumber;
    const axis = { stroke: ink("axis-ink"), grid: { stroke: ink("grid-ink"), width: 1 }, ticks: { show: false } };
    const font = `12px ${getComputedStyle(figure).fontFamily}`;
    const options = {
      width: figure.clientWidth,
      height: HEIGHT,
      scales: { x: { time: false }, y: { range: group.percent ? fractionRange : undefined } },
      axes: [
        { ...axis, font, size: 28, grid: { show: false }, values: (_, ticks) => ticks.map((tick) => tick.toLocaleString()) },
        { ...axis, font, size: 56, values: (_, ticks) => ticks.map(format) },
      ],
      series: [{}, ...group.series.flatMap((series) => lines(series, ink(`series-${series.color}`)))],
      legend: { show: false },
      cursor: { y: false, points: { size: 7 } },
      hooks: { setCursor: [(plot) => showValues(legend, plot, group)] },
    };
    return new uPlot(options, data, figure.querySelector(".chart"));
  }

  #resize() {
    for (const { plot, figure } of this.#drawn.values()) {
      if (figure.clientWidth && figure.clientWidth !== plot.width) plot.setSize({ width: figure.clientWidth, height: HEIGHT });
    }
  }
}

function grouped(series) {
  const hasSeveralTeachers = series.some((item) => /^teacher\/[1-9]/.test(item.name));
  const groups = GROUPS.map((group) => ({ ...group, hasSeveralTeachers, series: [] }));
  for (const item of series) {
    if (item.points.length) groups.find((group) => group.accepts(item.name))?.series.push(item);
  }
  const lastStep = Math.max(1, ...series.filter(({ name }) => name.startsWith("train/")).map(({ points }) => points.at(-1)?.[0] ?? 0));
  for (const group of groups) {
    group.lastStep = lastStep;
    group.series.sort((a, b) => rank(a.name) - rank(b.name) || a.name.localeCompare(b.name));
    setColors(group.series);
  }
  return groups.filter((group) => group.series.length > 0);
}

/** Give each series of a chart its color. Student, teacher and baseline have the same one in all charts and tables. */
function setColors(series) {
  const taken = new Set();
  for (const item of series) {
    item.color = roleColor(item.name);
    if (!item.color || taken.has(item.color)) item.color = FREE_COLORS.find((number) => !taken.has(number)) ?? FREE_COLORS[0];
    taken.add(item.color);
  }
}

function roleColor(name) {
  if (name === "eval/top1" || name === "train/loss") return 1;
  if (name.startsWith("baseline/")) return 3;
  const teacher = /^teacher\/(\d+)\/(top1|loss)$/.exec(name);
  if (!teacher) return null;
  const index = Number(teacher[1]);
  return index === 0 ? 2 : FREE_COLORS[(index - 1) % FREE_COLORS.length];
}

// Student first, then baseline and teachers.
function rank(name) {
  const first = ["eval/top1", "train/loss"].indexOf(name);
  return first >= 0 ? first - 10 : name.startsWith("teacher/") ? 1 : 0;
}

/** Join all series on one x axis, as uPlot requires; a long series adds a smoothed line. */
function aligned(group) {
  const tables = group.series.map((series) => {
    const steps = series.points.map(([step]) => step);
    const raw = series.points.map(([, value]) => value);
    return isLong(series) ? [steps, raw, smoothed(raw)] : [steps, raw];
  });
  // A series of one point (a teacher evaluated once) becomes a horizontal line from step 0 to the student's last step.
  const ends = tables.flatMap(([steps]) => [steps[0], steps.at(-1)]);
  const range = [Math.min(0, ...ends), Math.max(group.lastStep, ...ends)];
  for (const [index, table] of tables.entries()) {
    if (isLevel(group.series[index])) tables[index] = [range, [table[1][0], table[1][0]]];
  }
  return uPlot.join(tables);
}

function lines(series, stroke) {
  const line = { stroke, width: 2, points: { show: false }, spanGaps: true };
  if (isLevel(series)) return [{ ...line, dash: [6, 5], width: 1.5 }];
  if (!isLong(series)) return [{ ...line, points: { show: hasMarkers(series), size: 5, fill: stroke } }];
  return [{ ...line, width: 1, alpha: 0.28 }, line];
}

const isLong = (series) => series.points.length >= MIN_SMOOTHED_POINTS;
const isLevel = (series) => series.points.length === 1 && series.name.startsWith("teacher/") && isFraction(series.name);
const hasMarkers = (series) => series.points.length <= MAX_MARKED_POINTS;

/** What the lines of a series depend on besides its values. A plot is built again where it changes. */
const shapeOf = (series) => [series.name, series.color, isLevel(series), isLong(series), hasMarkers(series)].join();

/** Centered moving average; unlike an exponential average it does not lag behind a steep start. */
export function smoothed(values) {
  const reach = Math.max(2, Math.round(values.length / 50));
  return values.map((value, at) => {
    const window = values.slice(Math.max(0, at - reach), at + reach + 1).filter(Number.isFinite);
    return window.length ? window.reduce((sum, number) => sum + number, 0) / window.length : value;
  });
}

export function fractionRange(_, min, max) {
  const low = Math.max(0, Math.floor((min - 0.02) * 10) / 10);
  const high = Math.min(1, Math.ceil((max + 0.02) * 10) / 10);
  return [low, high > low ? high : 1];
}

const LABELS = { "eval/top1": "student", "train/loss": "total", "baseline/top1": "baseline" };

/** The text of a series in the legend. Only several teachers have numbers, from 0 as in the spec. */
function label(name, { hasSeveralTeachers }) {
  const [, number, rest] = /^teacher\/(\d+)\/(.+)$/.exec(name) ?? [];
  if (number === undefined) return LABELS[name] ?? words(name.replace(/^(train|eval)\//, ""));
  if (!hasSeveralTeachers) return rest === "top1" ? "teacher" : words(rest);
  return rest === "top1" ? `teacher ${number}` : `teacher ${number} ${words(rest)}`;
}

const words = (name) => name.replaceAll("/", " ").replaceAll("_", " ");

function entry(series, group) {
  const item = element("li");
  item.append(element("span", `swatch series-${series.color}`), element("span", "", label(series.name, group)), element("b"));
  return item;
}

/** Show the values at the cursor, or the latest values without one. */
function showValues(legend, plot, group) {
  const at = plot.cursor.idx;
  group.series.forEach((series, index) => {
    const step = at == null ? Infinity : plot.data[0][at];
    const point = isLevel(series) ? series.points[0] : series.points.findLast(([x]) => x <= step);
    legend.children[index].querySelector("b").textContent = point ? formatValue(point[1], group) : "";
  });
}

/** Show the latest values in the legend, and as the chart's label for screen readers. */
function describe(figure, group) {
  const texts = group.series.map((series, index) => {
    const text = formatValue(series.points.at(-1)[1], group);
    const shown = figure.querySelectorAll(".legend b")[index];
    if (!figure.querySelector(".u-over:hover")) shown.textContent = text;
    return `${label(series.name, group)} ${text}`;
  });
  const step = Math.max(...group.series.map((series) => series.points.at(-1)[0]));
  figure.querySelector(".chart").setAttribute("aria-label", `${group.title}, at step ${step}: ${texts.join(", ")}`);
}

/** Format a value. The service sends null for a value that is not finite. */
function formatValue(value, group) {
  if (value === null) return "not finite";
  return group.percent ? formatPercent(value) : formatNumber(value);
}

export function color(parent, className) {
  const probe = element("span", className);
  parent.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

export function element(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}
