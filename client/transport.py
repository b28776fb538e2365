"""HTTP connection pool with idempotent retries.

A request is retried if it did not reach the service (connection refused), if it was rate limited (429, after the
time in ``Retry-After``), or if it is repeatable: reads, and create requests, which have an ``Idempotency-Key``.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from client.errors import ApiError, ServiceUnreachable

TEMPORARY_STATUS = frozenset({429, 502, 503, 504})
_PAGE = 100
_FIRST_DELAY_SECONDS = 0.2
_MAX_DELAY_SECONDS = 5.0
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 60.0

# Builds httpx arguments for each attempt, because a partially sent file must be reopened. The stack closes the
# files after the attempt.
Body = Callable[[ExitStack], dict[str, Any]]


def object_path(collection: str, *segments: str) -> str:
    """Build the path of an object or of its sub-resource; names may contain any characters."""
    return "/".join((f"/v1/{collection}", *(quote(segment, safe="") for segment in segments)))


def new_idempotency_key() -> str:
    """Make an idempotency key for one create request."""
    return str(uuid.uuid4())


class Transport:
    """Sends requests to one service with one API key. Thread-safe."""

    def __init__(
        self, base_url: str, api_key: str, *, max_retries: int = 4, transport: httpx.BaseTransport | None = None
    ) -> None:
        if not api_key.isascii() or not api_key.isprintable():
            raise ValueError("an API key is printable ASCII; check that it was copied completely")
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
        """Read a JSON document. Parameters that are ``None`` are not sent."""
        sent = {name: value for name, value in (params or {}).items() if value is not None}
        return self._send("GET", path, lambda _: {"params": sent}, repeatable=True, read_seconds=read_seconds).json()

    def create(self, path: str, body: Body, *, idempotency_key: str | None = None) -> Any:
        """Create a resource, at most once across retries."""
        headers = {"Idempotency-Key": idempotency_key or new_idempotency_key()}
        return self._send("POST", path, body, repeatable=True, headers=headers).json()

    def post(self, path: str, *, repeatable: bool, document: Any = None) -> Any:
        """Send a POST. ``repeatable``: sending it twice has the same effect as once."""
        body = _no_body if document is None else lambda _: {"json": document}
        return self._send("POST", path, body, repeatable=repeatable).json()

    def query(self, path: str, document: Any) -> Any:
        """Send a read-only POST."""
        return self._send("POST", path, lambda _: {"json": document}, repeatable=True).json()

    def delete(self, path: str) -> None:
        """Delete a resource."""
        self._send("DELETE", path, _no_body, repeatable=False)

    @contextmanager
    def stream(
        self, path: str, *, headers: Mapping[str, str] | None = None, read_seconds: float = _READ_SECONDS
    ) -> Iterator[httpx.Response]:
        """Stream a response without retries; the caller resumes after a break."""
        timeout = httpx.Timeout(read_seconds, connect=_CONNECT_SECONDS)
        with self._http.stream("GET", path, headers=dict(headers or {}), timeout=timeout) as response:
            if response.is_error:
                response.read()
                raise api_error(response)
            yield response

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
            is_last = attempt == self._max_retries
            try:
                with ExitStack() as stack:
                    options = body(stack)
                    response = self._http.request(method, path, headers=dict(headers or {}), timeout=timeout, **options)
            except httpx.TransportError as error:
                not_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                if is_last or not (not_sent or repeatable):
                    raise ServiceUnreachable(f"{self.base_url} does not respond: {error}") from error
                time.sleep(retry_delay_seconds(attempt))
                continue
            if not response.is_error:
                return response
            problem = api_error(response)
            # 429: the service rejected the request before processing it, so every request is repeatable.
            rate_limited = response.status_code == httpx.codes.TOO_MANY_REQUESTS
            if is_last or not (repeatable or rate_limited) or not _is_temporary(problem):
                raise problem
            time.sleep(_retry_after(response) or retry_delay_seconds(attempt))
        raise AssertionError("the last attempt returns or raises")


def read_pages(transport: Transport, path: str, *, after: str | None = None, **params: Any) -> Iterator[Any]:
    """Iterate over the objects of a list; pages are fetched lazily."""
    while True:
        page = transport.get(path, params={**params, "limit": _PAGE, "after": after})
        yield from page["data"]
        if not page["has_more"]:
            return
        after = page["data"][-1]["id"]


def retry_delay_seconds(attempt: int) -> float:
    """Delay before attempt ``attempt + 1``: exponential backoff with jitter, so that clients do not synchronize."""
    max_delay = min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0**attempt)
    return random.uniform(max_delay / 2, max_delay)  # noqa: S311 - not used for secrets


def api_error(response: httpx.Response) -> ApiError:
    """Build the error of a response, including responses of proxies without a problem document."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": response.reason_phrase, "detail": response.text[:500], "code": "unknown"}
    return ApiError(response.status_code, problem)


def _no_body(_: ExitStack) -> dict[str, Any]:
    return {}


def _is_temporary(error: ApiError) -> bool:
    return error.status in TEMPORARY_STATUS or error.code == "idempotency_key_in_flight"


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return min(float(text), 60.0) if text.isdecimal() else None
