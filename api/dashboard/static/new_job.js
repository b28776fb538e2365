// The form of a new job. Controls and text edit one spec; the service checks and estimates it after each change.

import { EstimateCard, Estimator, post } from "./form/estimate.js";
import { Component, html, render } from "./form/library.js";
import { Field, Fields } from "./form/fields.js";
import { resolve, variants } from "./form/schema.js";
import { MethodSection, ModelSections } from "./form/sections.js";
import { FORMATS, read, write } from "./form/snippets.js";
import { join, set } from "./form/spec.js";
import { numJobs, specProblems, SweepCard, toGrid } from "./form/sweep.js";

const root = document.querySelector("[data-job-form]");
const { dataUrl, baseUrl } = root.dataset;
const choices = JSON.parse(root.dataset.choices);
const firstTraining = ["epochs", "batch_size", "learning_rate", "image_size", "augmentation", "seed"];
const ownSections = ["name", "dataset", "unlabeled_dataset", "teachers", "student", "method", "training", "resources", "priority", "metadata"];

class App extends Component {
  constructor({ data, spec, rows }) {
    super();
    this.data = data;
    this.methods = new Map(data.methods.map((method) => [method.name, method]));
    this.estimator = new Estimator((found) => this.#show(found));
    this.spec = spec; // as the state, which Preact updates later
    this.rows = rows ?? (location.hash === "#sweep" ? [{ field: "", text: "" }] : []); // fields that vary
    this.state = { spec, rows: this.rows, format: "json", draft: null, draftProblem: null, estimate: null, problems: [], failure: null, isStale: true, isSending: false };
  }

  componentDidMount() {
    if (this.rows.length) document.getElementById("sweep").scrollIntoView();
    this.#estimate();
  }

  #show({ document, problems, failure }) {
    this.setState((old) => ({ estimate: document ?? old.estimate, problems: specProblems(problems ?? []), failure: failure ?? null, isStale: false, isSending: false }));
  }

  #change(spec) {
    this.spec = spec;
    this.key = null; // another spec is another request
    remember({ spec, rows: this.rows });
    this.setState({ spec, draft: null, draftProblem: null, isStale: true });
    this.#estimate();
  }

  #vary(rows) {
    this.rows = rows;
    this.key = null;
    remember({ spec: this.spec, rows });
    this.setState({ rows, isStale: true });
    this.#estimate();
  }

  #estimate() {
    const { path, body } = this.#request();
    this.estimator.request(body, path === "/v1/jobs" ? "/v1/estimates" : "/v1/sweeps/estimate");
  }

  /** What the form creates: a job, or a sweep if fields vary. */
  #request() {
    const grid = toGrid(this.rows);
    return grid ? { path: "/v1/sweeps", page: "/sweeps", body: { spec: this.spec, grid } } : { path: "/v1/jobs", page: "/jobs", body: this.spec };
  }

  #edit(text) {
    try {
      const spec = read(text);
      this.#change(spec);
      this.setState({ draft: text });
    } catch (error) {
      this.setState({ draft: text, draftProblem: error.message });
    }
  }

  async #submit(event) {
    event.preventDefault();
    if (this.state.isSending || this.state.draftProblem) return;
    this.setState({ isSending: true });
    this.key ??= randomKey(); // a second try of the same spec creates nothing more
    const { path, page, body } = this.#request();
    try {
      const found = await post(path, body, { headers: { "Idempotency-Key": this.key } });
      if (found.document) location.assign(`${page}/${found.document.id}`);
      else {
        this.#show(found);
        document.getElementById("estimate-title").scrollIntoView({ block: "center" });
      }
    } catch {
      this.#show({ failure: "The service does not respond. Try again: a repeated request creates nothing more." });
    }
  }

  /** What controls need: the spec, the schema, the problems, and a way to change a value. */
  #form() {
    const { spec, problems } = this.state;
    return {
      spec,
      root: this.data.schema,
      methods: this.methods,
      choices,
      problems,
      methodParameters: (name) => variants(resolve(this.data.schema.properties.method, this.data.schema), this.data.schema).byName.get(name)?.properties ?? {},
      set: (pointer, value) => this.#change(set(this.spec, pointer, value)),
      problemAt: (pointer) => problems.find((problem) => problem.pointer === pointer)?.detail,
      isDataset: (pointer) => ["/dataset", "/unlabeled_dataset"].includes(pointer) || this.methods.get(spec.method?.name)?.datasets.some((name) => pointer === join("/method", name)),
    };
  }

  render(_, state) {
    const form = this.#form();
    const grid = toGrid(state.rows);
    const action = grid ? `Create sweep of ${numJobs(grid)} ${numJobs(grid) === 1 ? "job" : "jobs"}` : "Create job";
    const { properties } = this.data.schema;
    const section = (name) => resolve(properties[name], this.data.schema);
    const others = Object.keys(properties).filter((name) => !ownSections.includes(name));
    const field = (name) => html`<${Field} key=${name} name=${name} schema=${section(name)} pointer=${join("", name)} form=${form} />`;
    return html`<form class="columns form-columns" onSubmit=${(event) => this.#submit(event)} novalidate>
      <div class="column">
        <section class="card" aria-labelledby="basics-title"><h2 id="basics-title">Job</h2><div class="field-grid">${field("dataset")}${field("name")}${field("unlabeled_dataset")}</div></section>
        <${MethodSection} form=${form} />
        <${ModelSections} form=${form} student=${section("student")} teachers=${section("teachers")} firstTraining=${firstTraining} />
        <section class="card" aria-labelledby="training-title"><h2 id="training-title">Training of the student</h2>
          <${Fields} schema=${section("training")} pointer="/training" form=${form} first=${firstTraining} /></section>
        ${others.length > 0 && html`<section class="card" aria-labelledby="other-title"><h2 id="other-title">Output and options</h2><div class="field-grid">${others.map(field)}</div></section>`}
        <section class="card" aria-labelledby="resources-title"><h2 id="resources-title">Resources and labels</h2>
          <${Fields} schema=${section("resources")} pointer="/resources" form=${form} />
          <div class="field-grid">${["priority", "metadata"].map(field)}</div></section>
        <${SweepCard} rows=${state.rows} grid=${grid} form=${form} isOpen=${location.hash === "#sweep"} onChange=${(rows) => this.#vary(rows)} />
      </div>
      <div class="column side sticky-side">
        <${EstimateCard} result=${state.estimate} isStale=${state.isStale} problems=${state.problems} failure=${state.failure} />
        <button class="button primary block" type="submit" disabled=${state.isSending || Boolean(state.draftProblem)}>${state.isSending ? "Creating…" : action}</button>
        <${SpecCard} state=${state} grid=${grid} onFormat=${(format) => this.setState({ format, draft: null, draftProblem: null })} onEdit=${(text) => this.#edit(text)} />
      </div>
    </form>`;
  }
}

class SpecCard extends Component {
  async #copy(text) {
    const area = document.getElementById("spec-text");
    try {
      await navigator.clipboard.writeText(text); // only in a secure context
    } catch {
      area.select();
      document.execCommand("copy");
    }
    this.setState({ isCopied: true });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.setState({ isCopied: false }), 2000);
  }

  render({ state, grid, onFormat, onEdit }, { isCopied }) {
    const { format, draft, draftProblem, spec } = state;
    const text = draft ?? write(format, spec, { baseUrl, grid });
    const { isEditable } = FORMATS[format];
    return html`<section class="card spec-card" aria-labelledby="spec-title">
      <div class="spec-head"><h2 id="spec-title">Spec</h2><button class="button quiet" type="button" onClick=${() => this.#copy(text)}>${isCopied ? "Copied" : "Copy"}</button></div>
      <div class="formats" role="group" aria-label="Form of the text">
        ${Object.entries(FORMATS).map(([name, { label }]) => html`<button type="button" aria-pressed=${name === format ? "true" : "false"} onClick=${() => onFormat(name)}>${label}</button>`)}
      </div>
      <label class="visually-hidden" for="spec-text">The spec as ${FORMATS[format].label}${isEditable ? ", editable" : ""}</label>
      <textarea id="spec-text" class="mono small" rows="22" spellcheck="false" readonly=${!isEditable} value=${text} aria-invalid=${draftProblem ? "true" : undefined} aria-describedby="spec-help" onInput=${(event) => onEdit(event.target.value)}></textarea>
      <p id="spec-help" class="small ${draftProblem ? "field-problem" : "muted"}">${draftProblem ?? (isEditable ? "Edit the text or the form: both change the same spec." : "The key is read from the environment variable POTSTILL_API_KEY.")}</p>
    </section>`;
  }
}

/** Keep what was typed in the history's entry, so that it is there again after Back or a reload. */
function remember(draft) {
  try {
    history.replaceState(draft, "");
  } catch {
    // Browsers limit the number of changes in a time; a later one is kept.
  }
}

function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function start() {
  const area = root.querySelector("textarea");
  let spec;
  try {
    spec = read(area.value);
  } catch {
    return; // the page shows a text that is no spec, with its problem; it stays a text field
  }
  const response = await fetch(dataUrl, { credentials: "same-origin" });
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  const data = await response.json();
  root.replaceChildren();
  const { spec: typed, rows } = history.state ?? {};
  render(html`<${App} data=${data} spec=${typed ?? spec} rows=${rows} />`, root);
}

start().catch((error) => console.warn("The form could not be loaded; the text field submits the spec.", error));
