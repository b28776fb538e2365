"""Errors as RFC 9457 problems: the one place where an error becomes an answer, and is declared in OpenAPI."""

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
from core.spec.parse import MOST_NAMED, did_you_mean, pointer, summary_of

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2  # what a client is told to wait where the same request may work later
_DETAIL_CHARACTERS = 2000

log = structlog.get_logger(__name__)


class StorageUnavailable(Unavailable):
    """The artefact store is full, read-only or out of reach."""

    code = "storage_unavailable"


class FieldProblem(BaseModel):
    """One thing that is wrong with the request."""

    pointer: str = Field(description="Where (RFC 6901), e.g. `/method/temperature`.")
    detail: str = Field(description="What is wrong, and what is accepted.")


class Problem(BaseModel):
    """Why a request was refused (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Where this kind of problem is explained, relative to the service.")
    title: str = Field(description="The kind of problem in a few words; the same for every one of this `code`.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong here and how to mend it.")
    code: str = Field(description="A stable word to program against.")
    request_id: str = Field(description="To be found again in the service's logs.")
    errors: list[FieldProblem] = Field(default_factory=list, description="Each field that is wrong.")


def problem(error: PotstillError, request: Request) -> Response:
    """The answer that says what ``error`` is."""
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
    """The place in the reference that explains a code."""
    return f"/docs#problem-{code}"


def request_id(request: Request) -> str:
    """The id that the edge gave this request."""
    return str(request.scope["state"]["request_id"])


def problem_headers(error: PotstillError) -> dict[str, str]:
    """What an error says in headers, beside its document."""
    headers: dict[str, str] = {}
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="potstill"'
    if isinstance(error, Unavailable | RequestInFlight):
        headers["Retry-After"] = str(RETRY_SECONDS)
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(error.extra["retry_after_seconds"])
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.extra.get("allowed", ()))
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.extra['size_bytes']}"
    return headers


def problems(*kinds: type[PotstillError]) -> dict[int | str, dict[str, Any]]:
    """What an operation may answer besides its success, for FastAPI's ``responses``."""
    by_status: dict[int, list[type[PotstillError]]] = {}
    for kind in (*ALWAYS, *kinds):
        by_status.setdefault(kind.status, []).append(kind)
    return {status: _declared(status, found) for status, found in sorted(by_status.items())}


# What every operation under /v1 may answer.
ALWAYS: tuple[type[PotstillError], ...] = (NotAuthenticated, Forbidden, InvalidRequest, RateLimited, Unavailable)


def _declared(status: int, kinds: Iterable[type[PotstillError]]) -> dict[str, Any]:
    kinds = list(dict.fromkeys(kinds))
    lines = [f"`{kind.code}`: {_summary(kind)}" for kind in kinds]
    example = {
        "type": problem_type(kinds[0].code),
        "title": kinds[0].title,
        "status": status,
        "detail": _summary(kinds[0]),
        "code": kinds[0].code,
        "request_id": "req_01jd3v5n8e6f7g8h9jkmnpqrst",
        "errors": [],
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    declared = {"description": "\n".join(lines), "content": {MEDIA_TYPE: {"schema": schema, "example": example}}}
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        retry = {"description": "Seconds to wait before the same request is sent again.", "schema": {"type": "integer"}}
        declared["headers"] = {"Retry-After": retry}
    return declared


def _summary(kind: type[PotstillError]) -> str:
    return (kind.__doc__ or kind.title).partition("\n")[0]


def invalid(
    errors: Sequence[Mapping[str, Any]], *, model: type[BaseModel] | None = None, where: str = ""
) -> PotstillError:
    """What pydantic found wrong, as one error. ``model`` is what unknown fields are compared with."""
    found = [_field_error(error, model, where) for error in errors[:MOST_NAMED]]
    summary = summary_of(found, num_wrong=len(errors))
    if errors and all(error["type"] == NOT_AVAILABLE for error in errors):
        return NotAvailable(summary, errors=found)
    return InvalidRequest(summary, errors=found)


def refused(error: ValidationError, *, model: type[BaseModel] | None = None) -> PotstillError:
    """The same of pydantic's own exception."""
    return invalid(error.errors(include_url=False, include_input=False), model=model)


def _field_error(error: Mapping[str, Any], model: type[BaseModel] | None, where: str) -> FieldError:
    message = str(error["msg"])
    message = message[:1].lower() + message[1:]
    location = tuple(error["loc"])
    if error["type"] == "extra_forbidden" and model is not None:
        known = list(model.model_fields)
        message = f"unknown field.{did_you_mean(str(location[-1]), known)}"
        if len(location) == 1:
            message += f" Known here: {', '.join(known)}."
    return FieldError(pointer(location), f"{where}{message}")


async def _domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PotstillError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Unavailable):
        log.error("http.failed", code=error.code, detail=error.detail, exc_info=error)
    if isinstance(error, StorageFailed):  # what ends a job is for a request a reason to come again
        error = StorageUnavailable("Files cannot be stored or read at the moment; try again soon.")
    return problem(error, request)


async def _parameter_error(request: Request, error: Exception) -> Response:
    """Path and query parameters; bodies are read in ``api.request_body``."""
    assert isinstance(error, RequestValidationError)
    found = [{**each, "loc": each["loc"][1:]} for each in error.errors()]
    kinds = {each["loc"][0] for each in error.errors()}
    where = f"{kinds.pop()} parameter: " if len(kinds) == 1 else "parameter: "
    return problem(invalid(found, where=where), request)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: no such route, no such method, a body that cannot be read."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    domain: PotstillError
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            domain = NotFound(f"There is nothing at {path}; /docs lists what there is.")
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
            domain = PotstillError("Something went wrong in the service; it was logged under this request_id.")
    return problem(domain, request)


def _allowed_methods(request: Request) -> list[str]:
    """Every method of this path; the framework names only those of the first route that fits."""
    scope = {"type": "http", "path": request.scope["path"], "root_path": "", "headers": []}
    routes = request.app.router.routes
    return [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]


async def unexpected(request: Request, error: Exception) -> Response:
    """A bug of ours: logged in full, answered without its inside."""
    log.error("http.crashed", exc_info=error)
    detail = "Something went wrong in the service; it was logged under this request_id."
    return problem(PotstillError(detail), request)


def install(app: FastAPI) -> None:
    """Answer every error of this app as a problem."""
    app.add_exception_handler(PotstillError, _domain_error)
    app.add_exception_handler(RequestValidationError, _parameter_error)
    app.add_exception_handler(ResponseValidationError, unexpected)
    app.add_exception_handler(HTTPException, _http_error)
