// Reads the parts of JSON Schema that pydantic writes. The form draws its controls from the result.

/** A schema without references; `anyOf` with null becomes `nullable`. Siblings of a reference win over its target. */
export function resolve(schema, root) {
  let found = schema ?? {};
  while (found.$ref) {
    const { $ref, ...siblings } = found;
    found = { ...at(root, $ref), ...siblings };
  }
  const variants = found.anyOf?.filter((each) => each.type !== "null");
  if (variants && variants.length < found.anyOf.length) {
    const { anyOf, ...rest } = found;
    const inner = variants.length === 1 ? resolve(variants[0], root) : { anyOf: variants };
    return { ...inner, ...rest, nullable: true };
  }
  return found;
}

function at(root, reference) {
  return reference
    .replace(/^#\//, "")
    .split("/")
    .reduce((node, key) => node[key], root);
}

/**
 * The control of a resolved schema: "enum", "boolean", "number", "string", "object", "union" (objects told apart by a
 * field), "names" (a subset of an enum), "objects" (a list of objects), or "json" for everything else.
 */
export function kind(schema, root) {
  if (schema.enum) return "enum";
  if (schema.const !== undefined) return "const";
  if (variants(schema, root)) return "union";
  switch (schema.type) {
    case "boolean":
      return "boolean";
    case "integer":
    case "number":
      return "number";
    case "string":
      return "string";
    case "object":
      return schema.properties ? "object" : "json";
    case "array": {
      const items = resolve(schema.items, root);
      if (items.enum) return "names";
      return ["object", "union"].includes(kind(items, root)) ? "objects" : "json";
    }
    default:
      return "json";
  }
}

/** The variants of a union of objects: {field, byName}, or null if the schema is none. */
export function variants(schema, root) {
  const options = (schema.oneOf ?? schema.anyOf)?.map((each) => resolve(each, root));
  if (!options?.length || options.some((each) => !each.properties)) return null;
  const field =
    schema.discriminator?.propertyName ??
    Object.keys(options[0].properties).find((name) => options.every((each) => tag(each, name) !== undefined));
  if (!field) return null;
  return { field, byName: new Map(options.map((each) => [tag(each, field), each])) };
}

function tag(schema, name) {
  const property = schema.properties[name];
  return property?.const ?? (property?.enum?.length === 1 ? property.enum[0] : undefined);
}

/** What a number may be: "from 0 to 1", "above 0". */
export function range(schema) {
  const parts = [];
  if (schema.minimum !== undefined) parts.push(`from ${short(schema.minimum)}`);
  if (schema.exclusiveMinimum !== undefined) parts.push(`above ${short(schema.exclusiveMinimum)}`);
  if (schema.maximum !== undefined) parts.push(`to ${short(schema.maximum)}`);
  if (schema.exclusiveMaximum !== undefined) parts.push(`below ${short(schema.exclusiveMaximum)}`);
  return parts.join(" ");
}

const short = (number) => (Math.abs(number) >= 1e12 ? number.toExponential().replace("+", "") : number.toLocaleString("en"));

/** A field's name as a label: "learning_rate" is "Learning rate". */
export function label(name) {
  const words = String(name).replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
