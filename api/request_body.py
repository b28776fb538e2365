"""JSON bodies: read within limits, checked for what no part behind could store, and declared in OpenAPI.

Bodies are read by dependencies, not by FastAPI's own parameter, so that nothing of them is read before
the caller is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from api.problems import refused
from core.errors import FieldError, InvalidRequest, MalformedRequest, UnsupportedMedia
from core.spec.parse import pointer

MAX_JSON_BYTES = 1024 * 1024
_INT64 = 2**63
_REPORTED = 10  # at most so many bad values are named

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request) -> Any:
    """The request's JSON document. Raises ``MalformedRequest``, ``UnsupportedMedia`` or ``InvalidRequest``."""
    kind = media_type(request)
    if kind and kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMedia(f"{kind[:100]} is not read here; send JSON with Content-Type: application/json.")
    return parse_json(await request.body())


def media_type(request: Request) -> str:
    """The body's media type without its parameters, in lower case; empty where none is given."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_json(data: bytes | str, *, at: str = "") -> Any:
    """Parse JSON from outside. ``at`` is the pointer of the field that held it, where it came in a form.

    Refused besides bad syntax: nesting beyond 200, invalid UTF-8 and lone surrogates, numbers beyond 64
    bits, and NUL characters: databases and brokers do not take them.
    """
    if not data.strip():
        raise _malformed("The body is empty; a JSON document is needed.", at)
    try:
        document = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise _malformed(f"This is not valid JSON: {error}.", at) from None
    found = []
    for location, what in _unusable(document):
        found.append(FieldError(at + pointer(location), what))
        if len(found) == _REPORTED:
            break
    if found:
        raise InvalidRequest("; ".join(f"{e.pointer or '/'}: {e.detail}" for e in found[:3]), errors=found)
    return document


def validated(model: type[Model], data: Any) -> Model:
    """``data`` as ``model``. Raises :class:`InvalidRequest` with every field that is wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise refused(error, model=model) from None


def json_body(model: type[BaseModel], *, example: Any = None, required: bool = True) -> dict[str, Any]:
    """``openapi_extra`` of an operation whose body is ``model`` as JSON; ``api.openapi`` adds the schema."""
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def _malformed(detail: str, at: str) -> MalformedRequest | InvalidRequest:
    if at:
        return InvalidRequest(f"{at}: {detail}", errors=[FieldError(at, detail)])
    return MalformedRequest(detail)


def _unusable(value: Any, location: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where what is that cannot be used.

    A place is written down where something is wrong there, not for each value: half a million may lie very deep.
    """
    match value:
        case dict() if any("\0" in key for key in value):
            yield location, "a field's name holds a NUL character; leave it out"
        case dict() | list():
            for key, child in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(child, dict | list):
                    yield from _unusable(child, (*location, key))
                elif what := _wrong(child):
                    yield (*location, key), what
        case _ if what := _wrong(value):
            yield location, what


def _wrong(value: Any) -> str | None:
    match value:
        case str() if "\0" in value:
            return "the text holds a NUL character; leave it out"
        case bool():
            return None
        case int() if not -_INT64 <= value < _INT64:
            return "the number does not fit into 64 bits"
        case float() if not math.isfinite(value):
            return "the number is not finite"
    return None
