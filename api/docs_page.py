"""``/docs``: the reference, drawn from the OpenAPI document on the server. It needs no script and no internet."""

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
    """The reference."""
    document = request.app.openapi()
    content = _ENVIRONMENT.get_template("reference.html").render(
        document=document,
        groups=[(tag, [each for each in _operations(document) if tag["name"] in each["tags"]]) for tag in TAGS],
        schemas=sorted(document["components"]["schemas"].items()),
        problems=problem_kinds(),
    )
    return HTMLResponse(content, headers=PAGE_HEADERS)


@router.get("/docs/reference.css")
def reference_style() -> Response:
    """How it looks."""
    return Response((_TEMPLATES / "reference.css").read_bytes(), media_type="text/css", headers=_STYLE_HEADERS)


def problem_kinds() -> list[tuple[str, int, str, str]]:
    """Every problem that this process may answer: code, status, title and explanation, by status."""
    kinds: list[type[PotstillError]] = [PotstillError]
    for kind in kinds:  # grows while it is walked
        kinds.extend(kind.__subclasses__())
    by_code = {kind.code: kind for kind in reversed(kinds)}
    found = [
        (kind.code, kind.status, kind.title, " ".join((kind.__doc__ or kind.title).replace("``", "`").split()))
        for kind in by_code.values()
    ]
    return sorted(found, key=lambda each: (each[1], each[0]))


def _operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                yield {"method": method.upper(), "path": path, **methods[method]}


def _kind(schema: Mapping[str, Any]) -> Markup:
    """A schema in a few words, with links to those that have a name."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return Markup(" or ").join(_kind(each) for each in schema[word])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return Markup(" | ").join(Markup("<code>{}</code>").format(json.dumps(each)) for each in values)
    if schema.get("type") == "array":
        return Markup("list of {}").format(_kind(schema.get("items", {})))
    if isinstance(schema.get("additionalProperties"), dict):
        return Markup("map of {}").format(_kind(schema["additionalProperties"]))
    return escape(schema.get("format") or schema.get("type", "any"))


def _bounds(schema: Mapping[str, Any]) -> str:
    """Limits and default, as far as they are said."""
    words = {
        "minimum": "≥ {}",
        "exclusiveMinimum": "> {}",
        "maximum": "≤ {}",
        "exclusiveMaximum": "< {}",
        "maxLength": "at most {} characters",
        "maxItems": "at most {} items",
    }
    parts = [schema, *schema.get("anyOf", ())]
    said = [words[key].format(part[key]) for part in parts for key in words if key in part]
    if "default" in schema and schema["default"] is not None:
        said.append(f"default {json.dumps(schema['default'])}")
    return ", ".join(said)


def _prose(text: str) -> Markup:
    """Text with `code` in it, as HTML; paragraphs are kept."""
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        pieces = paragraph.split("`")
        marked = (Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(pieces))
        paragraphs.append(Markup("<p>{}</p>").format(Markup("").join(marked)))
    return Markup("").join(paragraphs)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        kind=_kind, bounds=_bounds, prose=_prose, pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    )
    return environment


_ENVIRONMENT = _environment()
