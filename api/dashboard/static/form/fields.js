// Controls of the form. Each reads and writes one value of the spec; an empty control leaves the default.

import { ArchitectureField } from "./architecture.js";
import { Component, html } from "./library.js";
import { kind, label, range, resolve, variants } from "./schema.js";
import { fieldId, focusLater, get, join } from "./spec.js";

const isShown = (name, schema) => schema.const === undefined && name !== "name";

/** All fields of an object's schema. `first` names those that come before the rest, which is folded away. */
export function Fields({ schema, pointer, form, first = null, hidden = [] }) {
  const entries = Object.entries(schema.properties)
    .map(([name, property]) => [name, resolve(property, form.root)])
    .filter(([name, property]) => isShown(name, property) && !hidden.includes(name));
  const draw = ([name, property]) => html`<${Field} key=${name} name=${name} schema=${property} pointer=${join(pointer, name)} form=${form} />`;
  if (!first) return html`<div class="field-grid">${entries.map(draw)}</div>`;
  const main = first.map((name) => entries.find(([other]) => other === name)).filter(Boolean);
  const rest = entries.filter((entry) => !main.includes(entry));
  return html`<div class="field-grid">${main.map(draw)}</div>
    ${rest.length > 0 &&
    html`<${Folded} title="More settings" pointer=${pointer} names=${rest.map(([name]) => name)} form=${form}><div class="field-grid">${rest.map(draw)}</div><//>`}`;
}

/** Fields that are folded away; opened where one of them has a problem. */
export function Folded({ title, pointer, names, form, children }) {
  const pointers = names.map((name) => join(pointer, name));
  const numSet = pointers.filter((each) => get(form.spec, each) !== undefined).length;
  const hasProblem = form.problems.some((problem) => pointers.some((each) => problem.pointer.startsWith(each)));
  return html`<details class="folded" open=${hasProblem || undefined}>
    <summary>${title}${numSet ? html` <span class="muted small">${numSet} set</span>` : ""}</summary>${children}
  </details>`;
}

/** One field with its label, help, range and problem. */
export function Field(props) {
  const { name, schema, pointer, form } = props;
  if (name === "architecture") return html`<${ArchitectureField} ...${props} />`;
  if (form.isDataset(pointer)) return html`<${DatasetField} ...${props} />`;
  if (name === "weights" && schema.type === "string") return html`<${WeightsField} ...${props} />`;
  switch (kind(schema, form.root)) {
    case "const":
      return null;
    case "enum":
      return html`<${EnumField} ...${props} />`;
    case "boolean":
      return html`<${BooleanField} ...${props} />`;
    case "number":
      return html`<${NumberField} ...${props} />`;
    case "string":
      return html`<${TextField} ...${props} />`;
    case "object":
    case "union":
      return html`<${ObjectField} ...${props} />`;
    case "objects":
      return html`<${ListField} ...${props} />`;
    case "names":
      return html`<${NamesField} ...${props} />`;
    default:
      return html`<${JsonField} ...${props} />`;
  }
}

/** Label, control, help and problem. `control` gets the attributes that connect them. */
export function Labeled({ name, schema, pointer, form, control, wide = false, text = label(name) }) {
  const id = fieldId(pointer);
  const problem = form.problemAt(pointer);
  const hint = [range(schema), defaultText(schema)].filter(Boolean).join("; ");
  const attributes = { id, "aria-describedby": `${id}-help${problem ? ` ${id}-problem` : ""}`, "aria-invalid": problem ? "true" : undefined };
  return html`<div class=${`field${wide ? " wide-field" : ""}`}>
    <label for=${id}>${text}</label>
    ${control(attributes)}
    ${problem && html`<p class="field-problem small" id=${`${id}-problem`}>${problem}</p>`}
    <p class="help small muted" id=${`${id}-help`}>${schema.description ? html`<${Marked} text=${help(schema)} /> ` : ""}${hint && html`<span class="hint">${hint}</span>`}</p>
  </div>`;
}

/** The description; where an empty control is null, it has the word that fits a form. */
function help({ description, default: standard }) {
  return standard == null ? description.replace(/\bNull:/g, "Empty:") : description;
}

function defaultText(schema) {
  if (schema.default === undefined || schema.default === null || typeof schema.default === "object") return "";
  const yesNo = { true: "yes", false: "no" };
  return `default ${yesNo[schema.default] ?? schema.default}`;
}

/** Text with `code`. */
export function Marked({ text }) {
  return text.split("`").map((part, index) => (index % 2 ? html`<code>${part}</code>` : part));
}

function EnumField(props) {
  const { schema, pointer, form } = props;
  const value = get(form.spec, pointer);
  const change = (event) => form.set(pointer, event.target.value === "" ? undefined : schema.enum.find((each) => String(each) === event.target.value));
  return html`<${Labeled} ...${props} control=${(attributes) => html`<select ...${attributes} value=${value ?? ""} onChange=${change}>
    <option value="">${schema.default == null ? "Default" : `Default (${schema.default})`}</option>
    ${value !== undefined && !schema.enum.includes(value) && html`<option value=${value}>${String(value)}</option>`}
    ${schema.enum.map((each) => html`<option value=${each}>${String(each)}</option>`)}
  </select>`} />`;
}

function BooleanField(props) {
  const { pointer, form, schema } = props;
  const value = get(form.spec, pointer);
  const change = (event) => form.set(pointer, { "": undefined, true: true, false: false }[event.target.value]);
  return html`<${Labeled} ...${props} control=${(attributes) => html`<select ...${attributes} value=${value == null ? "" : String(value)} onChange=${change}>
    <option value="">${schema.default == null ? "Default" : `Default (${schema.default ? "yes" : "no"})`}</option><option value="true">Yes</option><option value="false">No</option>
  </select>`} />`;
}

/** A number as the user writes it: "1e-3" stays while it is typed. "null" is null, where the schema allows it. */
function NumberField(props) {
  const { pointer, form, schema } = props;
  const parse = (text) => {
    if (text === "") return undefined;
    if (text === "null" && schema.nullable) return null;
    return Number.isNaN(Number(text)) ? text : Number(text);
  };
  return html`<${Labeled} ...${props} control=${(attributes) => html`<${Draft} attributes=${attributes} inputmode="decimal" placeholder=${schema.default ?? ""} value=${get(form.spec, pointer)} parse=${parse} onValue=${(value) => form.set(pointer, value)} />`} />`;
}

function TextField(props) {
  const { pointer, form, schema } = props;
  const parse = (text) => (text === "" ? undefined : text);
  return html`<${Labeled} ...${props} control=${(attributes) => html`<${Draft} attributes=${attributes} placeholder=${schema.default ?? ""} value=${get(form.spec, pointer)} parse=${parse} onValue=${(value) => form.set(pointer, value)} />`} />`;
}

/** An input that keeps what is typed, until the value changes elsewhere. */
export class Draft extends Component {
  render({ attributes, value, parse, onValue, ...rest }) {
    const format = (each) => (each === undefined ? "" : each === null ? "null" : String(each));
    const isOwn = this.state.text !== undefined && Object.is(parse(this.state.text.trim()), value);
    const input = (event) => {
      const text = event.target.value;
      this.setState({ text });
      onValue(parse(text.trim()));
    };
    return html`<input type="text" spellcheck="false" autocomplete="off" ...${attributes} ...${rest} value=${isOwn ? this.state.text : format(value)} onInput=${input} />`;
  }
}

/** A value as JSON, for everything without a control of its own. */
class JsonField extends Component {
  render(props) {
    const { pointer, form, schema } = props;
    const value = get(form.spec, pointer);
    const written = value === undefined ? "" : JSON.stringify(value, null, value && typeof value === "object" && !Array.isArray(value) ? 1 : 0);
    const { text, isInvalid, parsed } = this.state;
    const isOwn = text !== undefined && (isInvalid || JSON.stringify(parsed) === JSON.stringify(value));
    const input = (event) => {
      const typed = event.target.value;
      try {
        const next = typed.trim() === "" ? undefined : JSON.parse(typed);
        this.setState({ text: typed, isInvalid: false, parsed: next });
        form.set(pointer, next);
      } catch {
        this.setState({ text: typed, isInvalid: true });
      }
    };
    const example = schema.type === "object" ? "{}" : schema.default == null ? "null" : JSON.stringify(schema.default);
    return html`<${Labeled} ...${props} wide=${schema.type === "object"} control=${(attributes) => html`<textarea rows=${schema.type === "object" ? 4 : 1} spellcheck="false" ...${attributes} placeholder=${example} value=${isOwn ? text : written} onInput=${input} aria-invalid=${isInvalid ? "true" : attributes["aria-invalid"]}></textarea>
      ${isOwn && isInvalid && html`<p class="field-problem small" role="alert">This is not valid JSON yet; the spec is unchanged.</p>`}`} />`;
  }
}

/** A subset of names, as check boxes. A list with other values is edited as JSON. */
function NamesField(props) {
  const { name, schema, pointer, form } = props;
  const options = resolve(schema.items, form.root).enum;
  const value = get(form.spec, pointer) ?? schema.default ?? [];
  if (!Array.isArray(value) || value.some((each) => !options.includes(each))) return html`<${JsonField} ...${props} />`;
  const toggle = (option, isOn) => form.set(pointer, isOn ? [...value, option] : value.filter((each) => each !== option));
  return html`<fieldset class="field names" id=${fieldId(pointer)} tabindex="-1">
    <legend>${label(name)}</legend>
    ${options.map((option) => html`<label class="choice"><input type="checkbox" checked=${value.includes(option)} onChange=${(event) => toggle(option, event.target.checked)} /> ${option}</label>`)}
    <${Problem} pointer=${pointer} form=${form} />
    ${schema.description && html`<p class="help small muted"><${Marked} text=${schema.description} /></p>`}
  </fieldset>`;
}

/** A nested object; one that may be missing is switched on and off. */
export function ObjectField({ name, schema, pointer, form, title = label(name) }) {
  const value = get(form.spec, pointer);
  const union = variants(schema, form.root);
  const isOptional = schema.nullable;
  const isOn = !isOptional || value != null;
  const first = union && { [union.field]: union.byName.keys().next().value };
  return html`<fieldset class="block wide-field" id=${fieldId(pointer)} tabindex="-1">
    <legend>${title}</legend>
    ${schema.description && html`<p class="help small muted"><${Marked} text=${schema.description} /></p>`}
    ${isOptional && html`<label class="choice"><input type="checkbox" checked=${isOn} onChange=${(event) => form.set(pointer, event.target.checked ? (first ?? {}) : undefined)} /> Set ${title.toLowerCase()}</label>`}
    <${Problem} pointer=${pointer} form=${form} />
    ${isOn && html`<${Members} schema=${schema} pointer=${pointer} form=${form} />`}
  </fieldset>`;
}

/** The fields of an object, or of the chosen variant of a union with the choice of the variant. */
function Members({ schema, pointer, form }) {
  const union = variants(schema, form.root);
  if (!union) return html`<${Fields} schema=${schema} pointer=${pointer} form=${form} />`;
  const name = get(form.spec, pointer)?.[union.field];
  const variant = union.byName.get(name);
  const at = join(pointer, union.field);
  const property = { description: variant?.description };
  const control = (attributes) => html`<select ...${attributes} value=${name ?? ""} onChange=${(event) => form.set(pointer, { [union.field]: event.target.value })}>
    ${!variant && html`<option value=${name ?? ""}>${name ?? "Choose"}</option>`}
    ${[...union.byName.keys()].map((each) => html`<option value=${each}>${each}</option>`)}
  </select>`;
  return html`<${Labeled} name=${union.field} schema=${property} pointer=${at} form=${form} control=${control} />
    ${variant && html`<${Fields} schema=${variant} pointer=${pointer} form=${form} hidden=${[union.field]} />`}`;
}

/** A list of objects. */
function ListField({ name, schema, pointer, form }) {
  const items = resolve(schema.items, form.root);
  const value = get(form.spec, pointer) ?? [];
  const union = variants(items, form.root);
  const next = union ? { [union.field]: union.byName.keys().next().value } : {};
  const isFull = schema.maxItems !== undefined && value.length >= schema.maxItems;
  return html`<fieldset class="block wide-field" id=${fieldId(pointer)} tabindex="-1">
    <legend>${label(name)}</legend>
    ${schema.description && html`<p class="help small muted"><${Marked} text=${schema.description} /></p>`}
    <${Problem} pointer=${pointer} form=${form} />
    ${value.map((_, index) => html`<div class="item" key=${index}>
      <div class="item-head"><span class="strong small">${label(name)} ${index}</span><button type="button" class="button quiet" onClick=${() => (form.set(join(pointer, index), undefined), focusLater(fieldId(pointer)))}>Remove<span class="visually-hidden"> ${label(name)} ${index}</span></button></div>
      <${Problem} pointer=${join(pointer, index)} form=${form} />
      <${Members} schema=${items} pointer=${join(pointer, index)} form=${form} />
    </div>`)}
    <button type="button" class="button" disabled=${isFull} onClick=${() => form.set(pointer, [...value, next])}>Add ${label(name).toLowerCase()}</button>
  </fieldset>`;
}

export function Problem({ pointer, form }) {
  const problem = form.problemAt(pointer);
  return problem ? html`<p class="field-problem small">${problem}</p>` : null;
}

function DatasetField(props) {
  const { pointer, form, schema } = props;
  const value = get(form.spec, pointer) ?? "";
  const isListed = form.choices.datasets.some((each) => each.id === value);
  return html`<${Labeled} ...${props} schema=${schema.nullable ? { description: schema.description } : {}} control=${(attributes) => html`<select ...${attributes} value=${value} onChange=${(event) => form.set(pointer, event.target.value || undefined)}>
    ${(schema.nullable || !value) && html`<option value="">${schema.nullable ? "None" : "Choose a dataset"}</option>`}
    ${value && !isListed && html`<option value=${value}>${value}</option>`}
    ${form.choices.datasets.map((each) => html`<option value=${each.id}>${each.name}${each.num_classes ? `, ${each.num_classes} classes` : ", unlabeled"}</option>`)}
  </select>`} />`;
}

function WeightsField(props) {
  const { pointer, form, schema } = props;
  const [listed] = (schema.description ?? "").replace(/ \([^)]*\)/g, "").split(", or"); // without what is in brackets
  const keywords = [...listed.matchAll(/`(\w+)`/g)].map((match) => match[1]);
  const id = `${fieldId(pointer)}-list`;
  return html`<${Labeled} ...${props} control=${(attributes) => html`<${Draft} attributes=${attributes} list=${id} placeholder=${schema.default ?? ""} value=${get(form.spec, pointer)} parse=${(text) => text || undefined} onValue=${(value) => form.set(pointer, value)} />
    <datalist id=${id}>
      ${keywords.map((each) => html`<option value=${each}></option>`)}
      ${form.choices.weights.map((each) => html`<option value=${each.id}>${each.name}, ${each.architecture}</option>`)}
    </datalist>`} />`;
}
