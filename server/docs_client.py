"""Generate the client's response documents and the types of its job spec from the OpenAPI document.

A response becomes a pydantic model, a request a ``TypedDict``. So a new field of the API needs no work in the client.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "client" / "src" / "potstill"

# Documents to which the client adds methods, in classes of their own.
_WITH_METHODS = {
    "JobOut": "JobDocument",
    "DatasetOut": "DatasetDocument",
    "ModelOut": "ModelDocument",
    "MetricsOut": "MetricsDocument",
    "SweepOut": "SweepDocument",
}
_REQUEST_DOCUMENTS = ("JobSpec",)

_DOCUMENTS_HEAD = '''"""Responses of the API. Generated from `docs/openapi.json` by `make docs`; do not edit.

Later versions of the service may add fields: they are attributes too, without a type.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from potstill.document_base import ACCEPT_NEW, Document

'''
_SPEC_HEAD = '''"""Types of a job spec. Generated from `docs/openapi.json` by `make docs`; do not edit.

A spec may also be any mapping, for example one that was read from a file. The service checks it completely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict

'''

Schemas = Mapping[str, Any]


def client_modules(openapi: Mapping[str, Any]) -> dict[str, str]:
    """Return the source of the generated modules by file name."""
    schemas: Schemas = openapi["components"]["schemas"]
    requests = set(_reachable(_REQUEST_DOCUMENTS, schemas))
    responses = [name for name in _response_documents(openapi) if name not in requests]
    documents = [_document(name, schemas[name], requests) for name in responses if not name.startswith("Page_")]
    specs = [_typed_dict(name, schemas[name]) for name in _reachable(_REQUEST_DOCUMENTS, schemas)]
    modules = {
        "documents.py": _DOCUMENTS_HEAD + "\n\n".join(documents),
        "job_spec.py": _SPEC_HEAD + "\n\n".join(filter(None, specs)),
    }
    return {name: format_source(text) for name, text in modules.items()}


def document_class(schema_name: str) -> str:
    """Return the name of the client's class for a response schema."""
    return _WITH_METHODS.get(schema_name) or schema_name.removesuffix("Out")


def _document(name: str, schema: Mapping[str, Any], requests: set[str]) -> str:
    lines = [f"class {document_class(name)}(Document):", f'    """{_sentence(schema, name)}"""', ""]
    required = schema.get("required", ())
    for field, value in schema["properties"].items():
        annotation = _annotation(value, requests)
        if "default" in value:
            default = f" = {value['default']!r}"
        elif annotation.endswith("| None"):
            default = " = None"  # a service of an earlier version does not send it
        elif field in required:
            default = ""
        else:  # the service makes a new one for each document
            default = f" = Field(default_factory={'list' if annotation.startswith('list') else 'dict'})"
        lines.append(f"    {field}: {annotation}{default}")
        if "description" in value:
            lines.append(f'    """{_one_line(value["description"])}"""')
    return "\n".join(lines) + "\n"


def _annotation(schema: Mapping[str, Any], requests: set[str]) -> str:  # noqa: PLR0911 - one per kind of schema
    """Return the annotation of a response field."""
    if "$ref" in schema:
        name = _ref_name(schema)
        if name == "JsonValue":
            return "Any"
        return "dict[str, Any]" if name in requests else document_class(name)
    if "anyOf" in schema:
        parts = [_annotation(part, requests) for part in schema["anyOf"] if part.get("type") != "null"]
        is_nullable = len(parts) < len(schema["anyOf"])
        return " | ".join([*dict.fromkeys(parts), *(["None"] if is_nullable else [])])
    if "const" in schema:
        return f"Literal[{schema['const']!r}]"
    if "enum" in schema:
        return f"Annotated[Literal[{', '.join(map(repr, schema['enum']))}], ACCEPT_NEW]"
    match schema.get("type"):
        case "array":
            if "prefixItems" in schema:
                return f"tuple[{', '.join(_annotation(item, requests) for item in schema['prefixItems'])}]"
            return f"list[{_annotation(schema.get('items', {}), requests)}]"
        case "object":
            values = schema.get("additionalProperties")
            return f"dict[str, {_annotation(values, requests) if isinstance(values, dict) else 'Any'}]"
        case "string":
            return "datetime" if schema.get("format") == "date-time" else "str"
        case plain:
            return {"integer": "int", "number": "float", "boolean": "bool"}.get(plain or "", "Any")


def _typed_dict(name: str, schema: Mapping[str, Any]) -> str:
    if schema.get("type") != "object":
        return ""
    lines = [f"class {name}(TypedDict, total=False):", f'    """{_sentence(schema, name)}"""', ""]
    for field, value in schema["properties"].items():
        annotation = _request_annotation(value)
        lines.append(f"    {field}: {f'Required[{annotation}]' if field in schema.get('required', ()) else annotation}")
        if "description" in value:
            lines.append(f'    """{_one_line(value["description"])}"""')
    return "\n".join(lines) + "\n"


def _request_annotation(schema: Mapping[str, Any]) -> str:  # noqa: PLR0911 - one per kind of schema
    """Return the annotation of a request field; methods and other unions of objects are mappings."""
    if "$ref" in schema:
        name = _ref_name(schema)
        return "Any" if name == "JsonValue" else "Mapping[str, Any]" if name.endswith("Params") else name
    if "oneOf" in schema:
        parts = ["Mapping[str, Any]" if "$ref" in part else _request_annotation(part) for part in schema["oneOf"]]
        return " | ".join(dict.fromkeys(parts))
    if "anyOf" in schema:
        parts = ["None" if part.get("type") == "null" else _request_annotation(part) for part in schema["anyOf"]]
        return " | ".join(dict.fromkeys(parts))
    if "enum" in schema:
        return f"Literal[{', '.join(map(repr, schema['enum']))}]"
    match schema.get("type"):
        case "array":
            return f"Sequence[{_request_annotation(schema.get('items', {}))}]"
        case "object":
            values = schema.get("additionalProperties")
            return f"Mapping[str, {_request_annotation(values) if isinstance(values, dict) else 'Any'}]"
        case plain:
            types = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
            return types.get(plain or "", "Any")


def _response_documents(openapi: Mapping[str, Any]) -> list[str]:
    """Names of the schemas of all JSON responses; a schema comes after those it refers to."""
    roots = (
        content["schema"]
        for path in openapi["paths"].values()
        for operation in path.values()
        for status, response in operation["responses"].items()
        if status.startswith("2")
        for media_type, content in response.get("content", {}).items()
        if media_type == "application/json"
    )
    names = dict.fromkeys(name for root in roots for name in _references(root))
    return _reachable(sorted(names), openapi["components"]["schemas"])


def _reachable(roots: Iterable[str], schemas: Schemas) -> list[str]:
    """Names of the schemas that are reachable from ``roots``, without the methods' parameters."""
    found: dict[str, None] = {}
    visited: set[str] = set()  # a teacher's distillation has teachers again

    def visit(name: str) -> None:
        if name in visited or name.endswith("Params") or name == "JsonValue":
            return
        visited.add(name)
        for child in _references(schemas[name]):
            if child != name:
                visit(child)
        found[name] = None

    for root in roots:
        visit(root)
    return list(found)


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _references(item)
    elif isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield _ref_name(schema)
        for key, value in schema.items():
            if key not in {"discriminator", "oneOf"}:
                yield from _references(value)


def _ref_name(schema: Mapping[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _sentence(schema: Mapping[str, Any], name: str) -> str:
    return _one_line(schema.get("description") or f"{name}.")


def _one_line(text: str) -> str:
    """Return a description as one line of a docstring."""
    return " ".join(text.split()).replace("\\", "\\\\").replace('"', "'")


def format_source(source: str) -> str:
    """Return Python source in the format of the project."""
    ruff = str(Path(sys.executable).with_name("ruff"))
    command = [ruff, "format", "--stdin-filename", str(PACKAGE / "documents.py"), "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout  # noqa: S603
