// The spec as text: JSON and YAML to edit, and commands that submit it.

const yaml = globalThis.jsyaml; // a classic script, loaded before

export const FORMATS = {
  json: { label: "JSON", isEditable: true },
  yaml: { label: "YAML", isEditable: true },
  curl: { label: "curl" },
  cli: { label: "CLI" },
  python: { label: "Python" },
};

/** `grid` has the values of the fields that vary: the commands then create a sweep. */
export function write(format, spec, { baseUrl, grid }) {
  const path = grid ? "/v1/sweeps" : "/v1/jobs";
  const options = grid ? Object.entries(grid).map(([field, found]) => ` --grid ${quoted(`${field}=${JSON.stringify(found)}`)}`) : [];
  const lines = grid
    ? `    sweep = client.sweeps.create(spec, json.loads(r"""${inPython(JSON.stringify(grid))}"""))\n    print(sweep.id)`
    : "    job = client.jobs.create(spec)\n    print(job.id)";
  switch (format) {
    case "yaml":
      return toYaml(spec);
    case "curl":
      return `curl ${baseUrl}${path} \\\n  -H "Authorization: Bearer $POTSTILL_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d @- <<'SPEC'\n${toJson(grid ? { spec, grid } : spec)}\nSPEC`;
    case "cli":
      // No `potstill login` here: pasted lines would answer its prompt. Without a key, the command says how to log in.
      return `POTSTILL_URL=${baseUrl} potstill ${grid ? "sweeps create -" : "jobs submit -"} --watch${options.join("")} <<'SPEC'\n${toYaml(spec)}SPEC`;
    case "python":
      return `import json\nimport os\n\nfrom potstill import Potstill\n\nspec = json.loads(r"""\n${inPython(toJson(spec))}\n""")\n\nwith Potstill("${baseUrl}", os.environ["POTSTILL_API_KEY"]) as client:\n${lines}`;
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

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const inPython = (json) => json.replaceAll('"""', "\\u0022\\u0022\\u0022");
const toJson = (spec) => JSON.stringify(spec, null, 2);
const toYaml = (spec) => yaml.dump(spec, { schema: yaml.CORE_SCHEMA, lineWidth: 100, noRefs: true });
