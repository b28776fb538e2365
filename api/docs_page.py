"""``/docs``: the API reference, rendered on the server from the OpenAPI document; needs no script and no internet.

``api.dashboard.redoc_page`` shows the same document with a larger renderer (ADR 0034).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from api.code_samples import operations
from api.compression import compressed_response
from api.headers import PAGE_HEADERS
from api.openapi import TAGS
from core import ingest_errors, outbound_errors
from core.errors import PotstillError

router = APIRouter(include_in_schema=False)

_TEMPLATES = Path(__file__).parent / "templates"
_STYLE_HEADERS = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
_ERROR_MODULES = (ingest_errors, outbound_errors)  # their codes are listed, also those that no module of the API raises
_LINK = re.compile(r"\[([^\]]+)\]\((/[^)\s]*)\)")  # only to pages of this service


@router.get("/docs")
def reference_page(request: Request) -> Response:
    """The API reference. It depends on nothing but the version, so it is rendered once."""
    content: bytes | None = getattr(request.app.state, "reference_page", None)
    if content is None:
        content = request.app.state.reference_page = _render(request.app.openapi()).encode()
    return compressed_response(request, content, media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)


@router.get("/docs/reference.css")
def reference_style() -> Response:
    """The style sheet of the API reference."""
    return Response((_TEMPLATES / "reference.css").read_bytes(), media_type="text/css", headers=_STYLE_HEADERS)


def problem_types() -> list[tuple[str, int, str, str]]:
    """List code, status, title and description of every problem type, by status; without those of server commands."""
    errors: list[type[PotstillError]] = [PotstillError]
    for error in errors:  # grows during the iteration
        errors.extend(error.__subclasses__())
    by_code = {error.code: error for error in reversed(errors) if error.__module__.startswith(("api.", "core."))}
    rows = [
        (error.code, error.status, error.title, " ".join((error.__doc__ or error.title).replace("``", "`").split()))
        for error in by_code.values()
    ]
    return sorted(rows, key=lambda row: (row[1], row[0]))


def _render(document: Mapping[str, Any]) -> str:
    listed = [{"method": method.upper(), "path": path, **each} for path, method, each in operations(document)]
    return _ENVIRONMENT.get_template("reference.html").render(
        document=document,
        groups=[(tag, [each for each in listed if tag["name"] in each["tags"]]) for tag in TAGS],
        schemas=sorted(document["components"]["schemas"].items()),
        problems=problem_types(),
    )


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
    """Convert text with `code` spans, [links](/docs) to pages of the service, and paragraphs to HTML."""
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        spans = paragraph.split("`")
        html = (Markup("<code>{}</code>").format(s) if i % 2 else _with_links(s) for i, s in enumerate(spans))
        paragraphs.append(Markup("<p>{}</p>").format(Markup("").join(html)))
    return Markup("").join(paragraphs)


def _with_links(text: str) -> Markup:
    parts = _LINK.split(text)  # text, then title, address and text of each link
    html = escape(parts[0])
    for title, address, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        html += Markup('<a href="{}">{}</a>').format(address, title) + escape(rest)
    return html


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
