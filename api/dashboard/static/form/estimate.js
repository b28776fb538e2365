// The estimate beside the form, and the problems that the service finds.

import { short } from "./architecture.js";
import { html } from "./library.js";
import { fieldId } from "./spec.js";

const PAUSE = 500; // milliseconds after the last change

/** Estimates a job or a sweep after each pause in the changes; `onResult` gets the result of `post`. */
export class Estimator {
  #onResult;
  #timer = 0;
  #controller = null;

  constructor(onResult) {
    this.#onResult = onResult;
  }

  request(body, path) {
    clearTimeout(this.#timer);
    this.#controller?.abort();
    this.#timer = setTimeout(() => this.#send(body, path), PAUSE);
  }

  async #send(body, path) {
    this.#controller = new AbortController();
    const { signal } = this.#controller;
    try {
      this.#onResult(await post(path, body, { signal }));
    } catch (error) {
      if (!signal.aborted) this.#onResult({ failure: error.message });
    }
  }
}

/** Send JSON; returns {document}, {problems} for invalid fields, or {failure} for anything else. */
export async function post(path, document, { headers = {}, ...options } = {}) {
  const response = await fetch(path, {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(document),
    ...options,
  });
  const body = await response.json().catch(() => ({ detail: `HTTP ${response.status}` }));
  if (response.ok) return { document: body };
  if (body.errors?.length) return { problems: body.errors };
  return { failure: body.detail ?? body.title };
}

export function EstimateCard({ result, isStale, problems, failure }) {
  return html`<section class="card estimate" aria-labelledby="estimate-title" aria-busy=${isStale ? "true" : "false"}>
    <h2 id="estimate-title">Estimate</h2>
    <div role="status">
      ${problems.length > 0 && html`<${Problems} problems=${problems} />`}
      ${failure && html`<p class="field-problem small">${failure}</p>`}
      ${!problems.length && !failure && !result && html`<p class="muted small">Computing…</p>`}
      ${!problems.length && !failure && result && html`<${Figures} result=${result} isStale=${isStale} />`}
    </div>
  </section>`;
}

function Problems({ problems }) {
  return html`<p class="small strong">This job cannot run yet:</p><ul class="problem-list small">
    ${problems.map(({ pointer, detail }) => html`<li>${pointer && html`<a href=${`#${anchor(pointer)}`} onClick=${(event) => focus(event, pointer)}><code>${pointer}</code></a>: `}${detail}</li>`)}
  </ul>`;
}

/** The nearest control at or above a pointer; the text of the spec if there is none. */
function anchor(pointer) {
  for (let at = pointer; at; at = at.slice(0, at.lastIndexOf("/"))) {
    if (document.getElementById(fieldId(at))) return fieldId(at);
  }
  return "spec-text";
}

function focus(event, pointer) {
  event.preventDefault();
  const element = document.getElementById(anchor(pointer));
  for (let parent = element?.closest("details"); parent; parent = parent.parentElement.closest("details")) parent.open = true;
  element?.focus();
  element?.scrollIntoView({ block: "center" });
}

function Figures({ result, isStale }) {
  const rows = result.object === "sweep_estimate" ? sweepRows(result) : jobRows(result);
  return html`<dl class=${`properties${isStale ? " stale" : ""}`}>${rows.map(([label, text]) => text && html`<div><dt>${label}</dt><dd>${text}</dd></div>`)}</dl>
    ${result.warnings.length > 0 && html`<h3 class="warning-title">${result.warnings.length === 1 ? "Warning" : "Warnings"}</h3>
    <ul class="warning-list small">${result.warnings.map((warning) => html`<li>${warning.field && html`<a href=${`#${anchor(warning.field)}`} onClick=${(event) => focus(event, warning.field)}><code>${warning.field}</code></a>: `}${sentence(warning.message)} ${warning.fix ? sentence(warning.fix) : ""}</li>`)}</ul>`}`;
}

function jobRows(result) {
  return [
    ["Time", result.seconds == null ? "unknown" : duration(result.seconds)],
    ["Memory", size(result.memory_bytes)],
    ["Steps", `${result.total_steps.toLocaleString()}${result.epochs ? ` in ${result.epochs} ${result.epochs === 1 ? "epoch" : "epochs"}` : ""}`],
    ["Student", model(result.student)],
    ...result.teachers.map((teacher, index) => [result.teachers.length > 1 ? `Teacher ${index}` : "Teacher", model(teacher)]),
    ["Teacher cache", cacheText(result.teacher_cache)],
    ["Reused", reusedText(result)],
  ];
}

/** What an earlier job has trained, and the time that this saves: "teacher, baseline; saves 41 s". */
function reusedText({ teachers, teacher_trainings: trained, distillations, baseline }) {
  const name = (index) => (teachers.length > 1 ? `teacher ${index}` : "teacher");
  const parts = [
    ...trained.map((each) => [name(each.teacher), each]),
    ...distillations.map((each) => [each.model === "/student" ? "first weights" : name(Number(each.model.split("/")[2])), each]),
    ["baseline", baseline ?? {}],
  ].filter(([, each]) => each.reused);
  if (!parts.length) return "";
  const saved = parts.reduce((sum, [, each]) => sum + each.saved_seconds, 0);
  return `${[...new Set(parts.map(([label]) => label))].join(", ")} of earlier jobs; saves ${duration(saved)}`;
}

function sweepRows(result) {
  return [
    ["Jobs", result.num_jobs.toLocaleString()],
    ["Time", `${duration(result.seconds)}, one job after another`],
    ["Saved", result.shared_seconds ? `${duration(result.shared_seconds)}, by sharing teachers and baselines` : "nothing is shared"],
    ["Memory", result.memory_bytes == null ? "unknown" : size(result.memory_bytes)],
  ];
}

const model = ({ parameters, flops, size_bytes: bytes }) =>
  [`${short(parameters)} parameters`, flops != null && `${short(flops)} FLOPs`, bytes != null && size(bytes)].filter(Boolean).join(", ");

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

function cacheText({ hit, bytes, views, saved_seconds: saved }) {
  if (hit) return `hit, saves ${duration(saved)}`;
  return views ? `miss, stores ${size(bytes)}` : "not used";
}

function size(bytes) {
  if (bytes == null) return "unknown";
  return bytes < 999.5 ? `${bytes} B` : `${short(bytes)}B`;
}

export function duration(seconds) {
  if (seconds < 59.5) return `${seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  if (minutes < 60) return `${minutes} min ${String(Math.round(seconds) % 60).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60).toLocaleString()} h ${String(minutes % 60).padStart(2, "0")} min`;
}
