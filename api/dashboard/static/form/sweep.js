// Fields of the spec that vary: with them, the form makes a sweep with a job for each combination of their values.

import { html } from "./library.js";
import { resolve } from "./schema.js";
import { focusLater } from "./spec.js";

/** The grid of the rows that have a field and values, by field; null if there is none. */
export function toGrid(rows) {
  const entries = rows.map(({ field, text }) => [field.trim(), values(text)]).filter(([field, found]) => field && found.length);
  return entries.length ? Object.fromEntries(entries) : null;
}

export const numJobs = (grid) => Object.values(grid).reduce((count, found) => count * found.length, 1);

/** Values as the command line reads them: a JSON list, JSON values joined by commas, or texts joined by commas. */
function values(text) {
  if (!text.trim()) return [];
  for (const candidate of [text, `[${text}]`]) {
    const found = parse(candidate);
    if (Array.isArray(found)) return found;
  }
  return text.split(",").map((part) => parse(part) ?? part.trim()).filter((value) => value !== "");
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The problems of a sweep's request with the pointers of the spec, which the controls know. */
export const specProblems = (problems) => problems.map((problem) => ({ ...problem, pointer: problem.pointer.replace(/^\/spec(?=\/)/, "") }));

/** Fields to choose from: numbers, choices and switches of method and training, and the arguments of the student. */
function fields(form) {
  const method = form.spec.method?.name;
  const objects = [
    ["training", resolve(form.root.properties.training, form.root).properties],
    ["method", form.methodParameters(method)],
    ["student.arguments", form.spec.student?.arguments ?? {}],
  ];
  return objects.flatMap(([path, properties]) => Object.keys(properties).filter((name) => !(path === "method" && name === "name")).map((name) => `${path}.${name}`));
}

export function SweepCard({ rows, grid, form, isOpen, onChange }) {
  const change = (index, changes) => onChange(rows.map((row, at) => (at === index ? { ...row, ...changes } : row)));
  const total = grid ? numJobs(grid) : 0;
  return html`<details class="card sweep-card" id="sweep" open=${isOpen || rows.length > 0 || undefined}>
    <summary><h2>Several values: a sweep</h2></summary>
    <p class="muted small">A job for each combination of the values, compared on one page. Teacher outputs are computed once. <code>method</code> as a whole takes names in braces: <code>${'{"name": "kd"}, {"name": "dkd"}'}</code>.</p>
    <datalist id="sweep-fields">${fields(form).map((name) => html`<option value=${name} />`)}</datalist>
    ${rows.map(
      (row, index) => html`<div class="sweep-row" key=${index}>
        <div class="field"><label for=${`sweep-field-${index}`}>Field</label><input id=${`sweep-field-${index}`} list="sweep-fields" type="text" class="mono small" spellcheck="false" autocomplete="off" placeholder="method.temperature" value=${row.field} onInput=${(event) => change(index, { field: event.target.value })} /></div>
        <div class="field"><label for=${`sweep-values-${index}`}>Values</label><input id=${`sweep-values-${index}`} type="text" class="mono small" spellcheck="false" autocomplete="off" placeholder="1, 2, 4" value=${row.text} onInput=${(event) => change(index, { text: event.target.value })} /></div>
        <button type="button" class="button quiet" onClick=${() => (onChange(rows.filter((_, at) => at !== index)), focusLater("add-field"))}>Remove<span class="visually-hidden"> ${row.field || "this field"}</span></button>
      </div>`,
    )}
    <button type="button" id="add-field" class="button" onClick=${() => (onChange([...rows, { field: "", text: "" }]), focusLater(`sweep-field-${rows.length}`))}>Add a field</button>
    ${total > 0 && html` <span class="small muted" role="status">${total === 1 ? "One job" : `${total} jobs`}</span>`}
  </details>`;
}
