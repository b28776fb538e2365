"""Documents made from the schemas of the published OpenAPI document."""

import json
from functools import cache
from pathlib import Path

OPENAPI = Path(__file__).parents[2] / "docs" / "openapi.json"
TIME = "2026-11-24T08:00:00.000Z"


@cache
def openapi():
    """Return the OpenAPI document."""
    return json.loads(OPENAPI.read_text())


def make_document(schema_name, /, *, full=False, **changes):
    """Return a document of a schema. `full`: nullable fields have values, and lists one item."""
    document = _value(openapi()["components"]["schemas"][schema_name], full)
    assert set(changes) <= set(document), f"{schema_name} has no {set(changes) - set(document)}"
    return document | changes


def operations():
    """Return the operations of the API: `(method, path)`."""
    return [(method.upper(), path) for path, item in openapi()["paths"].items() for method in item]


def response_schema(method, path):
    """Return status, media type and schema of an operation's successful response."""
    responses = openapi()["paths"][path][method.lower()]["responses"]
    status = min(status for status in responses if status.startswith("2"))
    content = responses[status].get("content", {})
    media_type = "application/json" if "application/json" in content or not content else next(iter(content))
    return int(status), media_type, content.get(media_type, {}).get("schema", {})


def _value(schema, full):  # noqa: PLR0911 - one per kind of schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {} if name in {"JobSpec", "JsonValue"} else _value(openapi()["components"]["schemas"][name], full)
    if "anyOf" in schema:
        is_nullable = any(part.get("type") == "null" for part in schema["anyOf"])
        return None if is_nullable and not full else _value(schema["anyOf"][0], full)
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {field: _value(value, full) for field, value in schema.get("properties", {}).items()}
        case "array":
            items = schema.get("prefixItems") or ([schema["items"]] if full and "items" in schema else [])
            return [_value(item, full) for item in items]
        case "string":
            return TIME if schema.get("format") == "date-time" else "text"
        case plain:
            return {"integer": 1, "number": 0.5, "boolean": False}.get(plain)
