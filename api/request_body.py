"""Request bodies: declared by each route, read within limits, and checked for values that no later part can store.

Our own dependencies read the body instead of FastAPI's body parameters, so nothing of it is read before the caller is
authenticated. :mod:`api.openapi` adds the declared bodies to the OpenAPI document.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from api.problems import from_validation_error, invalid_field
from core.errors import FieldError, InvalidRequest, MalformedRequest, UnsupportedMedia
from core.spec.parse import pointer

MAX_JSON_BYTES = 1024 * 1024
_INT64 = 2**63
_MAX_ERRORS = 10

Model = TypeVar("Model", bound=BaseModel)
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(slots=True)
class BodyDeclaration:
    """The request body of an endpoint: media types as in OpenAPI, and the models whose schemas they need."""

    required: bool = True
    content: dict[str, Any] = field(default_factory=dict)
    models: list[type[BaseModel]] = field(default_factory=list)


_body_by_endpoint: dict[Callable[..., Any], BodyDeclaration] = {}


def json_body(model: type[BaseModel], *, example: Any = None, required: bool = True) -> Callable[[Endpoint], Endpoint]:
    """Declare that an endpoint reads ``model`` as JSON."""
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    if example is not None:
        content["example"] = example
    return _declare("application/json", content, model, required=required)


def form_body(
    schema: Mapping[str, Any], *, model: type[BaseModel] | None = None, example: Any = None
) -> Callable[[Endpoint], Endpoint]:
    """Declare that an endpoint reads a multipart form. ``model`` describes its fields without the file."""
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return _declare("multipart/form-data", content, model)


def raw_body(media_type: str) -> Callable[[Endpoint], Endpoint]:
    """Declare that an endpoint reads bytes of this media type."""
    return _declare(media_type, {"schema": {"type": "string", "format": "binary"}}, None)


def no_body(endpoint: Endpoint) -> Endpoint:
    """Declare that an endpoint reads no body although its method may have one."""
    _body_by_endpoint[endpoint] = BodyDeclaration(required=False)
    return endpoint


def declared_body(endpoint: Callable[..., Any]) -> BodyDeclaration | None:
    """Return the body that an endpoint declares, or None."""
    return _body_by_endpoint.get(endpoint)


async def read_json(request: Request) -> Any:
    """Return the request's JSON document.

    Raises :class:`MalformedRequest`, :class:`UnsupportedMedia` or :class:`InvalidRequest`.
    """
    name = media_type(request)
    if name and name != "application/json" and not (name.startswith("application/") and name.endswith("+json")):
        raise UnsupportedMedia(f"{name[:100]} is not supported; send JSON with Content-Type: application/json.")
    return parse_json(await request.body())


def media_type(request: Request) -> str:
    """Return the body's media type in lower case without parameters; empty if the request has none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_json(data: bytes | str, *, at: str = "") -> Any:
    """Parse untrusted JSON. ``at`` is the pointer of the form field that holds it, if any.

    Besides bad syntax this rejects nesting beyond 200, invalid UTF-8, lone surrogates, numbers beyond 64 bits, and
    NUL characters: databases and brokers cannot store them.
    """
    if not data.strip():
        raise _malformed("The body is empty; send a JSON document.", at)
    try:
        document = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise _malformed(f"This is not valid JSON: {error}.", at) from None
    errors = []
    for location, detail in _unusable_values(document):
        errors.append(FieldError(at + pointer(location), detail))
        if len(errors) == _MAX_ERRORS:
            break
    if errors:
        raise InvalidRequest.for_fields(errors)
    return document


def validate_as(model: type[Model], data: Any) -> Model:
    """Validate ``data`` as ``model``. Raises :class:`InvalidRequest` that names each invalid field."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise from_validation_error(error, model=model) from None


def _declare(
    name: str, content: Mapping[str, Any], model: type[BaseModel] | None, *, required: bool = True
) -> Callable[[Endpoint], Endpoint]:
    """Add a media type to an endpoint's declaration; decorators may be stacked."""

    def declare(endpoint: Endpoint) -> Endpoint:
        declaration = _body_by_endpoint.setdefault(endpoint, BodyDeclaration(required=required))
        declaration.content[name] = content
        if model is not None:
            declaration.models.append(model)
        return endpoint

    return declare


def _malformed(detail: str, at: str) -> MalformedRequest | InvalidRequest:
    return invalid_field(at, detail) if at else MalformedRequest(detail)


def _unusable_values(value: Any, location: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the location of each value that cannot be stored, and the reason.

    A location is built only for an unusable value: a body may hold half a million values at great depth.
    """
    match value:
        case dict() if any("\0" in key for key in value):
            yield location, "a field's name contains a NUL character; remove it"
        case dict() | list():
            for key, child in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(child, dict | list):
                    yield from _unusable_values(child, (*location, key))
                elif reason := _unusable_reason(child):
                    yield (*location, key), reason
        case _ if reason := _unusable_reason(value):
            yield location, reason


def _unusable_reason(value: Any) -> str | None:
    match value:
        case str() if "\0" in value:
            return "the text contains a NUL character; remove it"
        case bool():
            return None
        case int() if not -_INT64 <= value < _INT64:
            return "the number does not fit into 64 bits"
        case float() if not math.isfinite(value):
            return "the number is not finite"
    return None
