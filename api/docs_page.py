"""``/docs``: the API reference, rendered on the server from the OpenAPI document; needs no script and no internet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from api.headers import PAGE_HEADERS
from api.openapi import TAGS
from core.errors import PotstillError

router = APIRouter(include_in_schema=False)

_TEMPLATES = Path(__file__).parent / "templates"
_STYLE_HEADERS = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
_METHODS = ("get", "post", "put", "patch", "delete")


@router.get("/docs")
def reference_page(request: Request) -> Response:
    """The API reference."""
    document = request.app.openapi()
    operations = list(_operations(document))
    content = _ENVIRONMENT.get_template("reference.html").render(
        document=document,
        groups=[(tag, [each for each in operations if tag["name"] in each["tags"]]) for tag in TAGS],
        schemas=sorted(document["components"]["schemas"].items()),
        problems=problem_types(),
    )
    return HTMLResponse(content, headers=PAGE_HEADERS)


@router.get("/docs/reference.css")
def reference_style() -> Response:
    """The style sheet of the API reference."""
    return Response((_TEMPLATES / "reference.css").read_bytes(), media_type="text/css", headers=_STYLE_HEADERS)


def problem_types() -> list[tuple[str, int, str, str]]:
    """List code, status, title and description of every problem type, by status."""
    errors: list[type[PotstillError]] = [PotstillError]
    for error in errors:  # grows during the iteration
        errors.extend(error.__subclasses__())
    by_code = {error.code: error for error in reversed(errors)}
    rows = [
        (error.code, error.status, error.title, " ".join((error.__doc__ or error.title).replace("``", "`").split()))
        for error in by_code.values()
    ]
    return sorted(rows, key=lambda row: (row[1], row[0]))


def _operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                yield {"method": method.upper(), "path": path, **methods[method]}


def _type_name(schema: Mapping[str, Any]) -> Markup:
    """Describe a schema's type, with links to named schemas."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return Markup(" or ").join(_type_name(option) for option in schema[keyword])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return Markup(" | ").join(Markup("<code>{}</code>").format(json.dumps(value)) for value in values)
    if schema.get("type") == "array":
        return Markup("list of {}").format(_type_name(schema.get("items", {})))
    if isinstance(schema.get("additionalProperties"), dict):
        return Markup("map of {}").format(_type_name(schema["additionalProperties"]))
    return escape(schema.get("format") or schema.get("type", "any"))


def _constraints(schema: Mapping[str, Any]) -> str:
    """Describe a schema's limits and default."""
    formats = {
        "minimum": "≥ {}",
        "exclusiveMinimum": "> {}",
        "maximum": "≤ {}",
        "exclusiveMaximum": "< {}",
        "maxLength": "at most {} characters",
        "maxItems": "at most {} items",
    }
    schemas = [schema, *schema.get("anyOf", ())]
    texts = [formats[key].format(option[key]) for option in schemas for key in formats if key in option]
    if "default" in schema and schema["default"] is not None:
        texts.append(f"default {json.dumps(schema['default'])}")
    return ", ".join(texts)


def _markdown(text: str) -> Markup:
    """Convert text with `code` spans and paragraphs to HTML."""
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        spans = paragraph.split("`")
        html = (Markup("<code>{}</code>").format(s) if i % 2 else escape(s) for i, s in enumerate(spans))
        paragraphs.append(Markup("<p>{}</p>").format(Markup("").join(html)))
    return Markup("").join(paragraphs)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        type_name=_type_name,
        constraints=_constraints,
        markdown=_markdown,
        pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    )
    return environment


_ENVIRONMENT = _environment()
