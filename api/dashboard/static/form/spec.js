// Values of a JSON document by JSON Pointer (RFC 6901). Documents are not changed: `set` returns a new one.

export const parts = (pointer) =>
  pointer
    .split("/")
    .slice(1)
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));

export const join = (pointer, key) => `${pointer}/${String(key).replaceAll("~", "~0").replaceAll("/", "~1")}`;

export function get(document, pointer) {
  return parts(pointer).reduce((node, key) => node?.[key], document);
}

/** The document with a value at a pointer; `undefined` removes it. Missing parents become objects. */
export function set(document, pointer, value) {
  return replace(document, parts(pointer), value);
}

function replace(node, keys, value) {
  if (!keys.length) return value;
  const [key, ...rest] = keys;
  if (Array.isArray(node)) {
    const items = [...node];
    if (!rest.length && value === undefined) items.splice(Number(key), 1);
    else items[Number(key)] = replace(items[Number(key)], rest, value);
    return items;
  }
  const members = { ...(node ?? {}) };
  const inner = replace(members[key], rest, value);
  if (inner === undefined) delete members[key];
  else members[key] = inner;
  return members;
}

/** The id of the control at a pointer. */
export const fieldId = (pointer) => `field${pointer.replaceAll(/[^\w]/g, "-")}`;

/** Focus an element once the form has been drawn again: a removed button would lose the focus. */
export const focusLater = (id) => setTimeout(() => document.getElementById(id)?.focus(), 50);
