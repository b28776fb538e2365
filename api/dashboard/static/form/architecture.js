// A field for a timm architecture that searches while one types (ARIA combobox with a list).

import { Labeled } from "./fields.js";
import { Component, html } from "./library.js";
import { fieldId, get } from "./spec.js";

const PAUSE = 180; // milliseconds after the last key
const LIMIT = 12;

export class ArchitectureField extends Component {
  state = { found: [], isOpen: false, active: -1, typed: null };
  #query = 0; // number of the newest search: an older answer that arrives later is discarded

  componentWillUnmount() {
    clearTimeout(this.timer);
  }

  componentDidUpdate() {
    this.base.querySelector('[role="option"][aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
  }

  #type(text) {
    this.setState({ typed: text, active: -1 });
    this.props.form.set(this.props.pointer, text.trim() || undefined);
    this.#search(text.trim());
  }

  #search(text) {
    clearTimeout(this.timer);
    const number = ++this.#query;
    const show = (state) => number === this.#query && this.setState({ isOpen: true, active: -1, ...state });
    this.timer = setTimeout(async () => {
      const query = new URLSearchParams({ search: text, limit: LIMIT });
      try {
        const response = await fetch(`/v1/architectures?${query}`, { credentials: "same-origin" });
        const body = await response.json();
        if (!response.ok) throw new Error(body.detail);
        show({ found: body.data, failure: null });
      } catch (error) {
        show({ found: [], failure: error.message });
      }
    }, PAUSE);
  }

  #choose(name) {
    this.#close();
    this.props.form.set(this.props.pointer, name);
  }

  /** Close the list, and drop an answer that has not arrived. The field then shows the spec's text again. */
  #close() {
    clearTimeout(this.timer);
    this.#query += 1;
    this.setState({ isOpen: false, active: -1, typed: null });
  }

  #key(event) {
    const { found, isOpen, active } = this.state;
    if (event.key === "Escape") this.#close();
    if (event.key === "Enter" && isOpen && found[active]) {
      event.preventDefault();
      this.#choose(found[active].name);
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    if (!isOpen) this.#search(event.target.value.trim());
    else if (found.length) this.setState({ active: (active + step + found.length) % found.length });
  }

  render(props, { found, isOpen, active, failure, typed }) {
    const value = typed ?? get(props.form.spec, props.pointer) ?? ""; // typed: with the spaces between words
    const list = `${fieldId(props.pointer)}-options`;
    const option = (index) => `${list}-${index}`;
    const control = (attributes) => html`<div class="combobox">
      <input type="text" role="combobox" spellcheck="false" autocomplete="off" ...${attributes} value=${value} placeholder="Search, e.g. vit tiny"
        aria-expanded=${isOpen ? "true" : "false"} aria-controls=${list} aria-autocomplete="list" aria-activedescendant=${isOpen && active >= 0 ? option(active) : undefined}
        onInput=${(event) => this.#type(event.target.value)} onKeyDown=${(event) => this.#key(event)}
        onBlur=${() => this.#close()} onFocus=${(event) => event.target.select()} />
      <ul id=${list} role="listbox" aria-label="Architectures" hidden=${!isOpen}>
        ${found.map((each, index) => html`<li id=${option(index)} role="option" aria-selected=${index === active ? "true" : "false"} onMouseDown=${(event) => (event.preventDefault(), this.#choose(each.name))}>
          <span class="mono">${each.name}</span><span class="small muted">${describe(each)}</span></li>`)}
        ${isOpen && !found.length && html`<li role="option" aria-selected="false" aria-disabled="true" class="muted small">${failure ?? "No architecture matches."}</li>`}
      </ul></div>`;
    return html`<${Labeled} ...${props} wide=${true} control=${control} />`;
  }
}

/** "transformer · 5.7 M parameters · 2.5 G FLOPs · 224 px · pretrained, apache-2.0" */
function describe({ family, parameters, flops, input_size: size, pretrained, license }) {
  const weights = pretrained ? `pretrained${license ? `, ${license}` : ""}` : "no pretrained weights";
  return [family, parameters && `${short(parameters)} parameters`, flops && `${short(flops)} FLOPs`, size?.length && `${size.at(-1)} px`, weights].filter(Boolean).join(" · ");
}

export function short(number) {
  for (const [limit, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(number) >= limit * 0.9995) return `${Number((number / limit).toPrecision(3))} ${unit}`;
  }
  return String(Number(number.toPrecision(3)));
}
