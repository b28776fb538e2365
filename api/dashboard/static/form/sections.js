// The sections of the form that need more than their schema: the method, and the models.

import { Fields, Labeled, Marked, Problem } from "./fields.js";
import { html } from "./library.js";
import { resolve, variants } from "./schema.js";
import { fieldId, focusLater, get, join } from "./spec.js";

/** The choice of the method, with its paper and requirements, and its parameters. */
export function MethodSection({ form }) {
  const union = variants(resolve(form.root.properties.method, form.root), form.root);
  const name = form.spec.method?.[union.field];
  const method = form.methods.get(name);
  const schema = union.byName.get(name);
  const control = (attributes) => html`<select ...${attributes} value=${name ?? ""} onChange=${(event) => changeMethod(form, event.target.value)}>
    ${!schema && html`<option value=${name ?? ""}>${name ?? "Choose a method"}</option>`}
    ${[...union.byName.keys()].map((each) => html`<option value=${each}>${each}${form.methods.has(each) ? ` (${form.methods.get(each).year})` : ""}</option>`)}
  </select>`;
  return html`<section class="card" aria-labelledby="method-title"><h2 id="method-title">Method</h2>
    <div class="field-grid"><${Labeled} name=${union.field} text="Method" wide=${true} schema=${{ description: method?.summary }} pointer=${join("/method", union.field)} form=${form} control=${control} /></div>
    <${Problem} pointer="/method" form=${form} />
    ${method && html`<p class="small muted method-about">${method.when && html`<${Marked} text=${method.when} /> `}<${Paper} text=${method.paper} /> ${cost(method)} <a href=${`/methods#${method.name}`} target="_blank" rel="noopener">About this method</a> <a href="/methods" target="_blank" rel="noopener">Help me choose</a></p>`}
    ${schema && html`<${Fields} schema=${schema} pointer="/method" form=${form} />`}
  </section>`;
}

function cost({ cost: factor }) {
  return factor == null ? "" : `A step takes ${factor.toFixed(2)} times as long as without a teacher.`;
}

/** A paper's title; its arXiv number is a link. */
export function Paper({ text }) {
  const number = /arXiv:(\d{4}\.\d{4,5})/.exec(text ?? "")?.[1];
  if (!number) return text ?? "";
  const [before, after] = text.split(`arXiv:${number}`);
  return html`${before}<a href=${`https://arxiv.org/abs/${number}`} target="_blank" rel="noopener noreferrer">arXiv:${number}</a>${after}${after.endsWith(".") ? "" : "."}`;
}

/** Change the method; parameters without a default, and teachers that it needs, come from its example. */
function changeMethod(form, name) {
  const method = form.methods.get(name);
  form.set("/method", method ? firstParameters(form, method) : { name });
  if (!method) return;
  const teachers = form.spec.teachers ?? [];
  const { min_teachers: min, max_teachers: max } = method.needs;
  const missing = (method.example.teachers ?? []).slice(teachers.length, min);
  if (missing.length) form.set("/teachers", [...teachers, ...missing]);
  else if (max !== null && teachers.length > max) form.set("/teachers", max ? teachers.slice(0, max) : undefined);
}

function firstParameters(form, method) {
  const entries = Object.entries(method.example.method).map(([key, value]) => [key, method.datasets.includes(key) ? "" : value]);
  return Object.fromEntries(entries);
}

/** The student and the teachers. */
export function ModelSections({ form, student, teachers, firstTraining }) {
  const teacher = resolve(teachers.items, form.root);
  const value = form.spec.teachers ?? [];
  const max = form.methods.get(form.spec.method?.name)?.needs.max_teachers ?? teachers.maxItems;
  const example = [...form.methods.values()].find((method) => method.name === form.spec.method?.name)?.example.teachers?.[0] ?? { weights: "pretrained" };
  const add = () => {
    form.set("/teachers", [...value, example]);
    focusLater(fieldId(`/teachers/${value.length}/architecture`));
  };
  const remove = (index) => {
    form.set(join("/teachers", index), undefined);
    focusLater("add-teacher");
  };
  return html`<section class="card" aria-labelledby="student-title"><h2 id="student-title">Student</h2>
      <${Problem} pointer="/student" form=${form} />
      <${Fields} schema=${student} pointer="/student" form=${form} /></section>
    <section class="card" aria-labelledby="teachers-title"><h2 id="teachers-title">${value.length > 1 ? "Teachers" : "Teacher"}</h2>
      <${Problem} pointer="/teachers" form=${form} />
      ${!value.length && html`<p class="muted small">${max === 0 ? "This method takes no teacher." : "No teacher yet."}</p>`}
      ${value.map((_, index) => html`<div class="item" key=${index}>
        <div class="item-head"><span class="strong small">${value.length > 1 ? `Teacher ${index}` : ""}</span><button type="button" class="button quiet" onClick=${() => remove(index)}>Remove<span class="visually-hidden"> teacher${value.length > 1 ? ` ${index}` : ""}</span></button></div>
        <${Problem} pointer=${join("/teachers", index)} form=${form} />
        <${Teacher} schema=${teacher} pointer=${join("/teachers", index)} form=${form} firstTraining=${firstTraining} />
      </div>`)}
      ${value.length < max && html`<button type="button" id="add-teacher" class="button" onClick=${add}>Add a teacher</button>`}
    </section>`;
}

/** A teacher; its training block shows its main settings first. */
function Teacher({ schema, pointer, form, firstTraining }) {
  const training = schema.properties.training && resolve(schema.properties.training, form.root);
  const at = join(pointer, "training");
  const isTrained = get(form.spec, at) != null;
  return html`<${Fields} schema=${schema} pointer=${pointer} form=${form} hidden=${["training"]} />
    ${training && html`<fieldset class="block"><legend>Training of this teacher</legend>
      <p class="help small muted"><${Marked} text=${training.description ?? ""} /></p>
      <label class="choice"><input type="checkbox" checked=${isTrained} onChange=${(event) => form.set(at, event.target.checked ? {} : undefined)} /> Set its training</label>
      ${isTrained && html`<${Fields} schema=${training} pointer=${at} form=${form} first=${firstTraining} />`}
    </fieldset>`}`;
}
