// The spec as text: JSON and YAML to edit, and commands that submit it.

const yaml = globalThis.jsyaml; // a classic script, loaded before

export const FORMATS = {
  json: { label: "JSON", isEditable: true },
  yaml: { label: "YAML", isEditable: true },
  curl: { label: "curl" },
  cli: { label: "CLI" },
  python: { label: "Python" },
};

export function write(format, spec, baseUrl) {
  switch (format) {
    case "yaml":
      return toYaml(spec);
    case "curl":
      return `curl ${baseUrl}/v1/jobs \\\n  -H "Authorization: Bearer $POTSTILL_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d @- <<'SPEC'\n${toJson(spec)}\nSPEC`;
    case "cli":
      return `potstill login --url ${baseUrl}\npotstill jobs submit - --watch <<'SPEC'\n${toYaml(spec)}SPEC`;
    case "python":
      return `import json\nimport os\n\nfrom potstill import Potstill\n\nspec = json.loads(r"""\n${toJson(spec).replaceAll('"""', '\\u0022\\u0022\\u0022')}\n""")\n\nwith Potstill("${baseUrl}", os.environ["POTSTILL_API_KEY"]) as client:\n    job = client.jobs.create(spec)\n    print(job.id)`;
    default:
      return toJson(spec);
  }
}

/** The spec of a text in JSON or YAML 1.2. Throws an error with the position of what is wrong. */
export function read(text) {
  const spec = yaml.load(text, { schema: yaml.CORE_SCHEMA });
  if (spec === null || typeof spec !== "object" || Array.isArray(spec)) throw new Error("A spec is an object with dataset, student and method.");
  return spec;
}

const toJson = (spec) => JSON.stringify(spec, null, 2);
const toYaml = (spec) => yaml.dump(spec, { schema: yaml.CORE_SCHEMA, lineWidth: 100, noRefs: true });
