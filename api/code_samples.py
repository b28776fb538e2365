"""Examples of each operation in curl, Python and JavaScript: ``x-codeSamples`` of the OpenAPI document.

The examples follow from the document: parameters, and the examples of request bodies. Those in Python call the client,
which the service does not import; ``server.docs_code_samples`` writes them to ``python_samples.json``.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

HTTP_METHODS: Final = ("get", "post", "put", "patch", "delete", "options")
PYTHON_SAMPLES: Final = Path(__file__).with_name("python_samples.json")

_JSON = "application/json"
_FORM = "multipart/form-data"
# Values of parameters without an enumeration; others are shown as their name in capitals.
_VALUES: Final[Mapping[str, Any]] = {
    "index": 0,
    "num_images": 2000,
    "split": "train",
    "teacher": "cnn",
    "student": "transformer",
    "Upload-Length": 1_048_576,
    "Upload-Offset": 0,
}
_NAMES: Final = {"methods": "kd", "artifacts": "model.safetensors", "artifact-urls": "model.onnx"}
_PROTOCOL_HEADERS: Final = frozenset({"Tus-Resumable"})  # optional in the document, sent by every client


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """The request of an example. At most one of ``document``, ``form`` and ``file`` is set."""

    method: str
    path: str  # with its query
    headers: Mapping[str, str]
    document: Any = None
    form: Mapping[str, str] = field(default_factory=dict)
    file: str | None = None  # name of the file that is the body
    output: str | None = None  # name of the file for a response that is not JSON
    has_response: bool = True
    needs_key: bool = True


def add_code_samples(document: dict[str, Any]) -> None:
    """Add the examples to the operations of an OpenAPI document."""
    python = python_samples()
    for path, method, operation in operations(document):
        request = sample_request(path, method, operation)
        samples = [{"lang": "Shell", "label": "curl", "source": curl(request)}]
        if operation["operationId"] in python:
            samples.append({"lang": "Python", "label": "Python", "source": python[operation["operationId"]]})
        samples.append({"lang": "JavaScript", "label": "JavaScript", "source": javascript(request)})
        operation["x-codeSamples"] = samples


def python_samples() -> dict[str, str]:
    """Return the examples in Python by operation id."""
    samples: dict[str, str] = json.loads(PYTHON_SAMPLES.read_text(encoding="utf-8"))
    return samples


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method in lower case, and operation."""
    for path, item in document["paths"].items():
        for method in HTTP_METHODS:
            if method in item:
                yield path, method, item[method]


def sample_request(path: str, method: str, operation: Mapping[str, Any]) -> SampleRequest:
    """Return an example request: required parameters, and the example of the body."""
    values = {each["name"]: example_value(path, each) for each in operation.get("parameters", ())}
    required = [each for each in operation.get("parameters", ()) if each.get("required")]
    url = path
    for each in required:
        if each["in"] == "path":
            url = url.replace(f"{{{each['name']}}}", quote(str(values[each["name"]]), safe=""))
    query = urlencode({each["name"]: values[each["name"]] for each in required if each["in"] == "query"})
    names = [each["name"] for each in required if each["in"] == "header"]
    names += [name for name in values if name in _PROTOCOL_HEADERS]
    headers = {name: str(values[name]) for name in names}
    content = operation.get("requestBody", {}).get("content", {})
    document, form, file = None, {}, None
    if _JSON in content:
        document = content[_JSON].get("example")
    elif _FORM in content:
        form = {"file": "@data.zip", **content[_FORM].get("example", {})}
    elif content:
        headers["Content-Type"] = next(iter(content))
        file = "part.bin"
    media_types = _response_media_types(operation)
    return SampleRequest(
        method.upper(),
        f"{url}?{query}" if query else url,
        headers,
        document=document,
        form=form,
        file=file,
        output=url.rsplit("/", 1)[-1] if media_types and _JSON not in media_types else None,
        has_response=bool(media_types),
        needs_key=bool(operation.get("security")),
    )


def example_value(path: str, parameter: Mapping[str, Any]) -> Any:
    """Return the value of a parameter in examples."""
    name, schema = parameter["name"], parameter["schema"]
    if name == "name":
        return next((value for part, value in _NAMES.items() if f"/{part}/" in path), "NAME")
    if name in _VALUES:
        return _VALUES[name]
    return schema["enum"][0] if "enum" in schema else name.upper()


def curl(request: SampleRequest) -> str:
    """Write the request for a shell."""
    lines = [f'curl "$POTSTILL_URL{request.path}"']
    if request.method != "GET" and not (request.method == "POST" and _has_body(request)):
        lines[0] = f'curl -X {request.method} "$POTSTILL_URL{request.path}"'
    if request.needs_key:
        lines.append('-H "Authorization: Bearer $POTSTILL_API_KEY"')
    lines += [f'-H "{name}: {value}"' for name, value in request.headers.items()]
    if request.document is not None:
        body = json.dumps(request.document, indent=2, ensure_ascii=False)
        lines += [f'-H "Content-Type: {_JSON}"', f"-d {shlex.quote(body)}"]
    lines += [f"-F {shlex.quote(f'{name}={value}')}" for name, value in request.form.items()]
    if request.file is not None:
        lines.append(f"--data-binary @{request.file}")
    if request.output is not None and request.output != "metrics":
        lines.append(f"--output {shlex.quote(request.output)}")
    return " \\\n  ".join(lines)


def javascript(request: SampleRequest) -> str:
    """Write the request for Node.js and browsers: ``url`` and ``apiKey`` are constants of the program."""
    options = [] if request.method == "GET" else [f"method: {json.dumps(request.method)}"]
    headers = ["Authorization: `Bearer ${apiKey}`"] if request.needs_key else []
    headers += [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in request.headers.items()]
    before = ""
    if request.document is not None:
        headers.append(f'"Content-Type": "{_JSON}"')
        body = json.dumps(request.document, indent=2, ensure_ascii=False).replace("\n", "\n  ")
        options_body = [f"body: JSON.stringify({body})"]
    elif request.form:
        fields = "".join(
            f"form.append({json.dumps(name)}, {'file' if value.startswith('@') else json.dumps(value)});\n"
            for name, value in request.form.items()
        )
        before = f'const form = new FormData(); // file: a File of an <input type="file">\n{fields}\n'
        options_body = ["body: form"]
    else:
        options_body = ["body: part, // a Blob"] if request.file is not None else []
    if headers:
        options.append(f"headers: {{ {', '.join(headers)} }}")
    options += options_body
    arguments = "".join(f"\n  {each}{'' if each.endswith('Blob') else ','}" for each in options)
    call = f"`${{url}}{request.path}`" + (f", {{{arguments}\n}}" if options else "")
    lines = [
        f"const response = await fetch({call});",
        "if (!response.ok) throw new Error((await response.json()).detail);",
    ]
    if request.output is not None:
        lines.append("const content = await response.blob();")
    elif request.has_response:
        lines.append("console.log(await response.json());")
    return before + "\n".join(lines)


def _has_body(request: SampleRequest) -> bool:
    return request.document is not None or bool(request.form) or request.file is not None


def _response_media_types(operation: Mapping[str, Any]) -> list[str]:
    """Return the media types of the first successful response."""
    status = min(each for each in operation["responses"] if each.startswith("2"))
    return list(operation["responses"][status].get("content", {}))
