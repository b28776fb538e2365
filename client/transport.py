"""One HTTP connection pool with retries that cannot do a thing twice.

A request is sent again when nothing reached the service (connection refused), when it was one too many (429, after
the time that the service names), or when sending it again is harmless: reads, and creating requests, which always
carry an ``Idempotency-Key``.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from client.errors import ApiError, ServiceUnreachable

_RETRIED_STATUS = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 60.0

# Arguments for httpx that are built anew for every try: a file that was half sent must be opened again.
# What they open is closed with the stack after the try.
Body = Callable[[ExitStack], dict[str, Any]]


def new_idempotency_key() -> str:
    """A key under which the service remembers one creating request."""
    return str(uuid.uuid4())


class Transport:
    """Sends requests to one service with one key. Safe to share between threads."""

    def __init__(
        self, base_url: str, api_key: str, *, max_retries: int = 4, transport: httpx.BaseTransport | None = None
    ) -> None:
        if not api_key.isascii() or not api_key.isprintable():
            raise ValueError("an API key is printable ASCII; was it copied whole?")
        self.base_url = base_url.rstrip("/")
        self._max_retries = max_retries
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key}", "User-Agent": "potstill-python"},
            timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
            transport=transport,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def get(self, path: str, *, params: Mapping[str, Any] | None = None, read_seconds: float = _READ_SECONDS) -> Any:
        """Read a JSON document. ``None`` among the parameters means: not sent."""
        known = {name: value for name, value in (params or {}).items() if value is not None}
        return self._send("GET", path, lambda _: {"params": known}, repeatable=True, read_seconds=read_seconds).json()

    def create(self, path: str, body: Body, *, idempotency_key: str | None = None) -> Any:
        """Make something, at most once however often the request is sent."""
        headers = {"Idempotency-Key": idempotency_key or new_idempotency_key()}
        return self._send("POST", path, body, repeatable=True, headers=headers).json()

    def post(self, path: str, *, repeatable: bool, document: Any = None) -> Any:
        """Ask for a move. ``repeatable`` says that asking twice does the same as asking once."""
        body = _no_body if document is None else lambda _: {"json": document}
        return self._send("POST", path, body, repeatable=repeatable).json()

    def query(self, path: str, document: Any) -> Any:
        """A POST that changes nothing."""
        return self._send("POST", path, lambda _: {"json": document}, repeatable=True).json()

    def delete(self, path: str) -> None:
        """Delete something."""
        self._send("DELETE", path, _no_body, repeatable=False)

    @contextmanager
    def stream(
        self, path: str, *, headers: Mapping[str, str] | None = None, read_seconds: float = _READ_SECONDS
    ) -> Iterator[httpx.Response]:
        """A streamed answer, tried once; whoever reads it knows how to go on after a break."""
        timeout = httpx.Timeout(read_seconds, connect=_CONNECT_SECONDS)
        with self._http.stream("GET", path, headers=dict(headers or {}), timeout=timeout) as answer:
            if answer.is_error:
                answer.read()
                raise api_error(answer)
            yield answer

    def _send(
        self,
        method: str,
        path: str,
        body: Body,
        *,
        repeatable: bool,
        headers: Mapping[str, str] | None = None,
        read_seconds: float = _READ_SECONDS,
    ) -> httpx.Response:
        timeout = httpx.Timeout(read_seconds, connect=_CONNECT_SECONDS)
        for attempt in range(self._max_retries + 1):
            last = attempt == self._max_retries
            try:
                with ExitStack() as stack:
                    arguments = body(stack)
                    answer = self._http.request(method, path, headers=dict(headers or {}), timeout=timeout, **arguments)
            except httpx.TransportError as error:
                unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                if last or not (unsent or repeatable):
                    raise ServiceUnreachable(f"{self.base_url} does not answer: {error}") from error
                time.sleep(pause_seconds(attempt))
                continue
            if not answer.is_error:
                return answer
            problem = api_error(answer)
            # Too many requests: this one was refused before anything was done, so any may be sent again.
            refused = answer.status_code == httpx.codes.TOO_MANY_REQUESTS
            if last or not (repeatable or refused) or not _passes(problem):
                raise problem
            time.sleep(_asked_pause(answer) or pause_seconds(attempt))
        raise AssertionError("the last try returns or raises")


def pause_seconds(attempt: int) -> float:
    """How long to wait before try ``attempt + 1``: doubling, with jitter so that clients do not march in step."""
    longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0**attempt)
    return random.uniform(longest / 2, longest)  # noqa: S311 - no secret depends on it


def api_error(answer: httpx.Response) -> ApiError:
    """The error that an answer describes, also where something in between answered without a problem document."""
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": answer.reason_phrase, "detail": answer.text[:500], "code": "unknown"}
    return ApiError(answer.status_code, problem)


def _no_body(_: ExitStack) -> dict[str, Any]:
    return {}


def _passes(error: ApiError) -> bool:
    return error.status in _RETRIED_STATUS or error.code == "idempotency_key_in_flight"


def _asked_pause(answer: httpx.Response) -> float | None:
    text = answer.headers.get("retry-after", "")
    return min(float(text), 60.0) if text.isdecimal() else None
