"""Errors as RFC 9457 problems: error handlers, and the responses that operations declare in OpenAPI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, ResponseValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.encoded_slashes import restore_slashes
from core.errors import (
    FieldError,
    Forbidden,
    InvalidRequest,
    MalformedRequest,
    MethodNotAllowed,
    NotAuthenticated,
    NotAvailable,
    NotFound,
    PayloadTooLarge,
    PotstillError,
    RangeNotSatisfiable,
    RateLimited,
    RequestInFlight,
    StorageFailed,
    Unavailable,
)
from core.redaction import redact
from core.spec.document import NOT_AVAILABLE
from core.spec.field_messages import field_message
from core.spec.parse import MAX_FIELD_ERRORS, did_you_mean, pointer

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2  # Retry-After of errors where the same request may succeed later
_DETAIL_CHARACTERS = 2000
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_UNEXPECTED = "An internal error occurred; the service logged it under this request_id."

log = structlog.get_logger(__name__)


class StorageUnavailable(Unavailable):
    """The artifact store is full, read-only or unreachable."""

    code = "storage_unavailable"


class FieldProblem(BaseModel):
    """One invalid field of the request."""

    pointer: str = Field(description="JSON Pointer (RFC 6901) of the field, e.g. `/method/temperature`.")
    detail: str = Field(description="What is wrong, and what is accepted.")


class Problem(BaseModel):
    """Why a request failed (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="URL of the description of this `code`, relative to the service.")
    title: str = Field(description="Short summary; the same for all problems with this `code`.")
    status: int = Field(description="HTTP status code.")
    detail: str = Field(description="What is wrong with this request and how to fix it.")
    code: str = Field(description="Stable machine-readable code.")
    request_id: str = Field(description="Id of this request in the service's logs.")
    errors: list[FieldProblem] = Field(default_factory=list, description="Each invalid field.")


def problem(error: PotstillError, request: Request) -> Response:
    """Return the problem response for ``error``."""
    content = {
        "type": problem_type(error.code),
        "title": error.title,
        "status": error.status,
        "detail": redact(error.detail[:_DETAIL_CHARACTERS]),
        "code": error.code,
        "request_id": request_id(request),
        "errors": [
            {"pointer": redact(e.pointer), "detail": redact(e.detail[:_DETAIL_CHARACTERS])} for e in error.errors
        ],
    }
    return JSONResponse(
        {**error.extra, **content}, status_code=error.status, headers=problem_headers(error), media_type=MEDIA_TYPE
    )


def problem_type(code: str) -> str:
    """Return the URL of a code's entry in the API reference."""
    return f"/docs#problem-{code}"


def request_id(request: Request) -> str:
    """Return the id that the middleware assigned to this request."""
    return str(request.scope["state"]["request_id"])


def problem_headers(error: PotstillError) -> dict[str, str]:
    """Return the response headers of an error."""
    headers: dict[str, str] = {}
    if isinstance(error, NotAuthenticated):
        is_token = error.code != NotAuthenticated.code  # RFC 6750: without `error` if no credential was sent
        headers["WWW-Authenticate"] = 'Bearer realm="potstill"' + (', error="invalid_token"' if is_token else "")
    if isinstance(error, Unavailable | RequestInFlight):
        headers["Retry-After"] = str(RETRY_SECONDS)
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(error.extra["retry_after_seconds"])
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.extra.get("allowed", ()))
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.extra['size_bytes']}"
    return headers


def problems(*errors: type[PotstillError]) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of an operation, for FastAPI's ``responses``."""
    by_status: dict[int, list[type[PotstillError]]] = {}
    for error in (*COMMON_ERRORS, *errors):
        by_status.setdefault(error.status, []).append(error)
    return {status: _response(status, same_status) for status, same_status in sorted(by_status.items())}


# Possible for every operation under /v1.
COMMON_ERRORS: tuple[type[PotstillError], ...] = (
    NotAuthenticated,
    Forbidden,
    InvalidRequest,
    RateLimited,
    Unavailable,
)


def _response(status: int, errors: Iterable[type[PotstillError]]) -> dict[str, Any]:
    errors = list(dict.fromkeys(errors))
    lines = [f"`{error.code}`: {_summary(error)}" for error in errors]
    example = {
        "type": problem_type(errors[0].code),
        "title": errors[0].title,
        "status": status,
        "detail": _summary(errors[0]),
        "code": errors[0].code,
        "request_id": "req_01jd3v5n8e6f7g8h9jkmnpqrst",
        "errors": [],
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    response = {"description": "\n".join(lines), "content": {MEDIA_TYPE: {"schema": schema, "example": example}}}
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        retry = {"description": "Seconds to wait before sending the request again.", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": retry}
    return response


def _summary(error: type[PotstillError]) -> str:
    return (error.__doc__ or error.title).partition("\n")[0]


def invalid_field(pointer: str, detail: str) -> InvalidRequest:
    """Return the error for one invalid field, given its JSON Pointer."""
    return InvalidRequest.for_field(pointer, detail)


def invalid_fields(
    errors: Sequence[Mapping[str, Any]], *, model: type[BaseModel] | None = None, where: str = ""
) -> PotstillError:
    """Return pydantic's errors as one error.

    ``where`` prefixes each detail. The names of unknown fields are compared with the fields of ``model``.
    """
    field_errors = [_field_error(error, model, where) for error in errors[:MAX_FIELD_ERRORS]]
    is_unavailable = bool(errors) and all(error["type"] == NOT_AVAILABLE for error in errors)
    error_type = NotAvailable if is_unavailable else InvalidRequest
    return error_type.for_fields(field_errors, num_errors=len(errors))


def from_validation_error(error: ValidationError, *, model: type[BaseModel] | None = None) -> PotstillError:
    """Return a pydantic ``ValidationError`` as one of ours."""
    return invalid_fields(error.errors(include_url=False), model=model)


def _field_error(error: Mapping[str, Any], model: type[BaseModel] | None, where: str) -> FieldError:
    message = field_message(error)
    location = _without_tag(tuple(error["loc"]), model)
    if error["type"] == "extra_forbidden" and model is not None:
        names = list(model.model_fields)
        message = f"unknown field.{did_you_mean(str(location[-1]), names)}"
        if len(location) == 1:
            message += f" Known here: {', '.join(names)}."
    return FieldError(pointer(location), f"{where}{message}")


def _without_tag(location: tuple[str | int, ...], model: type[BaseModel] | None) -> tuple[str | int, ...]:
    """Remove the tag that pydantic adds after the name of a field with a discriminated union."""
    field = model.model_fields.get(str(location[0])) if model is not None and len(location) > 1 else None
    return location if field is None or field.discriminator is None else (location[0], *location[2:])


async def _domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PotstillError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Unavailable):
        log.error("http.failed", code=error.code, detail=error.detail, exc_info=error)
    if isinstance(error, StorageFailed):  # fails a job, but a request may be retried
        error = StorageUnavailable("Files cannot be stored or read now; try again soon.")
    return problem(error, request)


async def _parameter_error(request: Request, error: Exception) -> Response:
    """Handle invalid path and query parameters; ``api.request_body`` reads bodies."""
    assert isinstance(error, RequestValidationError)
    # FastAPI's locations start with the kind of parameter, e.g. ("query", "limit").
    errors = [{**item, "loc": item["loc"][1:]} for item in error.errors()]
    kinds = {item["loc"][0] for item in error.errors()}
    where = f"{kinds.pop()} parameter: " if len(kinds) == 1 else "parameter: "
    return problem(invalid_fields(errors, where=where), request)


async def _http_error(request: Request, error: Exception) -> Response:
    """Handle the framework's own errors: unknown route, method not allowed, unreadable body."""
    assert isinstance(error, HTTPException)
    path = restore_slashes(request.url.path)[:200]
    domain: PotstillError
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            domain = NotFound(f"There is nothing at {path}; /docs lists all routes.")
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = _allowed_methods(request)
            domain = MethodNotAllowed(
                f"{request.method[:20]} is not allowed on {path}. Allowed: {', '.join(allowed)}.",
                extra={"allowed": allowed},
            )
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            domain = PayloadTooLarge(str(error.detail))
        case status if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            domain = MalformedRequest(str(error.detail))
        case _:
            domain = PotstillError(_UNEXPECTED)
    return problem(domain, request)


def _allowed_methods(request: Request) -> list[str]:
    """Return all methods of this path; the framework names only those of the first matching route."""
    scope = {"type": "http", "path": request.scope["path"], "root_path": "", "headers": []}
    routes = request.app.router.routes
    allowed = {
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    }
    if "GET" in allowed:
        allowed.add("HEAD")  # `api.head_requests`
    return [method for method in _METHODS if method in allowed]


async def unexpected(request: Request, error: Exception) -> Response:
    """Handle an unexpected exception: log it in full, and do not show it to the client."""
    log.error("http.crashed", exc_info=error)
    return problem(PotstillError(_UNEXPECTED), request)


def install(app: FastAPI) -> None:
    """Register the error handlers, so that every error of this app is a problem."""
    app.add_exception_handler(PotstillError, _domain_error)
    app.add_exception_handler(RequestValidationError, _parameter_error)
    app.add_exception_handler(ResponseValidationError, unexpected)
    app.add_exception_handler(HTTPException, _http_error)
