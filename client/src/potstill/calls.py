"""HTTP calls without input and output: what is sent, and which outcome is retried after how long.

A call is retried if it did not reach the service (connection refused), if it was rate limited (429, after the time in
``Retry-After``), or if it is repeatable: reads, and create requests, which have an ``Idempotency-Key``.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from potstill.errors import ApiError, InvalidArgument, ServiceUnreachable, UnexpectedResponse, api_error

TEMPORARY_STATUS = frozenset({429, 502, 503, 504})
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
PAGE_SIZE = 100  # the largest that the API allows
_FIRST_DELAY_SECONDS = 0.2
_MAX_DELAY_SECONDS = 5.0
_MAX_RETRY_AFTER_SECONDS = 60.0

# Builds httpx arguments for each attempt, because a partially sent file must be reopened. The stack closes the
# files after the attempt.
Body = Callable[[ExitStack], dict[str, Any]]

AnyModel = TypeVar("AnyModel", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``repeatable``: sending it twice has the same effect as once."""

    method: str
    path: str
    repeatable: bool
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    read_seconds: float = READ_SECONDS

    def arguments(self, stack: ExitStack) -> dict[str, Any]:
        """Return the arguments of httpx for one attempt. Parameters that are None are not sent."""
        return {
            "method": self.method,
            "url": self.path,
            "params": {name: value for name, value in self.params.items() if value is not None},
            "headers": dict(self.headers),
            "timeout": httpx.Timeout(self.read_seconds, connect=CONNECT_SECONDS),
            **(self.body(stack) if self.body is not None else {}),
        }


def read_call(path: str, *, read_seconds: float = READ_SECONDS, **params: Any) -> Call:
    """Return a call that reads a document."""
    return Call("GET", path, repeatable=True, params=params, read_seconds=read_seconds)


def query_call(path: str, document: Mapping[str, Any]) -> Call:
    """Return a POST that changes nothing."""
    return Call("POST", path, repeatable=True, body=json_body(document))


def create_call(path: str, body: Body | None = None, *, idempotency_key: str | None = None) -> Call:
    """Return a call that creates an object at most once, however often it is sent."""
    headers = {"Idempotency-Key": idempotency_key or new_idempotency_key()}
    return Call("POST", path, repeatable=True, headers=headers, body=body)


def json_body(document: Mapping[str, Any]) -> Body:
    """Return a body with a JSON document."""
    content = dict(document)
    return lambda _: {"json": content}


def file_body(path: Path) -> Body:
    """Return a form with one file. Raises :class:`InvalidArgument` if there is no such file."""
    if not path.is_file():
        raise InvalidArgument(f"there is no file {path}")
    return lambda stack: {"files": {"file": (path.name, stack.enter_context(path.open("rb")))}}


def new_idempotency_key() -> str:
    """Make an idempotency key for one create request."""
    return str(uuid.uuid4())


def object_path(collection: str, *segments: str) -> str:
    """Build the path of an object or of its sub-resource; names may contain any characters.

    Raises :class:`InvalidArgument` for the name of an object that would lead to another path.
    """
    if segments[0] in {"", ".", ".."}:
        raise InvalidArgument(f"{segments[0]!r} is neither an id nor a name")
    return "/".join((f"/v1/{collection}", *(quote(segment, safe="") for segment in segments)))


def user_agent() -> str:
    """Return the client's name and version."""
    from potstill import __version__  # late: the package imports this module

    return f"potstill-python/{__version__}"


def check_key(api_key: str) -> str:
    """Return a key that fits into a header. Raises ``ValueError``."""
    if not api_key.isascii() or not api_key.isprintable():
        raise ValueError("an API key is printable ASCII; check that it was copied completely")
    return api_key


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which outcomes are retried, at most ``max_retries`` times."""

    base_url: str
    max_retries: int

    def after_break(self, call: Call, attempt: int, error: httpx.TransportError) -> float:
        """Return the delay before the next attempt. Raises :class:`ServiceUnreachable` if there is none."""
        not_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        if attempt >= self.max_retries or not (not_sent or call.repeatable):
            raise ServiceUnreachable(f"{self.base_url} does not respond: {error or type(error).__name__}") from error
        return retry_delay_seconds(attempt)

    def after_problem(self, call: Call, attempt: int, response: httpx.Response) -> float:
        """Return the delay before the next attempt. Raises :class:`ApiError` if there is none."""
        problem = read_problem(response)
        # 429: the service rejected the request before processing it, so every request is repeatable.
        is_repeatable = call.repeatable or response.status_code == httpx.codes.TOO_MANY_REQUESTS
        if attempt >= self.max_retries or not is_repeatable or not is_temporary(problem):
            raise problem
        return _retry_after_seconds(response) or retry_delay_seconds(attempt)


def retry_delay_seconds(attempt: int) -> float:
    """Delay before attempt ``attempt + 1``: exponential backoff with jitter, so that clients do not synchronize."""
    max_delay = min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0**attempt)
    return random.uniform(max_delay / 2, max_delay)  # noqa: S311 - not used for secrets


def is_temporary(error: ApiError) -> bool:
    """Whether the same request may succeed later."""
    return error.status in TEMPORARY_STATUS or error.code == "idempotency_key_in_flight"


def read_problem(response: httpx.Response) -> ApiError:
    """Return the error of a response that was read, including responses of proxies without a problem document."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": response.reason_phrase, "detail": response.text[:500], "code": "unknown"}
    if response.is_redirect:
        problem["detail"] = f"the service redirects to {response.headers.get('location')}; use that URL"
    return api_error(response.status_code, problem)


def parse(response: httpx.Response, model: type[AnyModel]) -> AnyModel:
    """Return the document of a response. Raises :class:`UnexpectedResponse`."""
    return validate(read_json(response), model)


def validate(document: Any, model: type[AnyModel]) -> AnyModel:
    """Return a validated document. Raises :class:`UnexpectedResponse` that names the fields."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, each["loc"])) or "the document" for each in error.errors()})[:5])
        raise UnexpectedResponse(
            f"the service sent a {model.__name__} that this version of the client cannot read ({fields}); update the "
            "client or the service"
        ) from error


def read_json(response: httpx.Response) -> Any:
    """Return the JSON of a response. Raises :class:`UnexpectedResponse`."""
    try:
        return response.json()
    except ValueError as error:
        raise UnexpectedResponse(
            f"{response.request.url.copy_with(path='/', query=None)} does not answer like Potstill: JSON was expected. "
            "Check the URL of the service"
        ) from error


def _retry_after_seconds(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return min(float(text), _MAX_RETRY_AFTER_SECONDS) if text.isdecimal() else None
