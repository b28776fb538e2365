"""Send a POST request to an untrusted URL: https only, public addresses only, limited in time.

Redirects are not followed, and the body of the response is not read: the result says only whether the receiver
accepted the request. Messages contain host names, never full URLs, because URLs may contain secrets.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpcore

from core.fetch.connection import CONNECT_SECONDS, CheckedBackend, Connector, Deadline, Resolver, connect, resolve
from core.fetch.targets import NetworkPolicy, Target, parse_target
from core.ingest_errors import DownloadFailed, UrlNotAllowed

_REDIRECTS = range(300, 400)
_ACCEPTED = range(200, 300)


@dataclass(frozen=True, slots=True)
class PostResult:
    """Response of the receiver, or why there is none. ``error`` is None if it accepted the request (2xx)."""

    status: int | None
    error: str | None
    seconds: float
    retry_after_seconds: float | None = None


@dataclass(slots=True, kw_only=True)
class Poster:
    """Sends POST requests; thread-safe. Tests replace ``resolver``, ``connector`` and ``make_ssl_context``.

    ``timeout_seconds`` limits a whole request, with name resolution and TLS.
    """

    policy: NetworkPolicy
    timeout_seconds: float
    resolver: Resolver = resolve
    connector: Connector = connect
    make_ssl_context: Callable[[], ssl.SSLContext] = ssl.create_default_context
    _ssl_context: ssl.SSLContext | None = field(default=None, init=False)

    def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> PostResult:
        """Send one request and return the result; never raises for what the URL or its host does."""
        started_at = time.monotonic()
        deadline = Deadline(self.timeout_seconds)
        try:
            target = parse_target(url, self.policy)
        except UrlNotAllowed as error:
            return PostResult(None, error.detail, 0.0)
        try:
            status, retry_after = self._exchange(target, body, headers, deadline)
        except (UrlNotAllowed, DownloadFailed, httpcore.TimeoutException, httpcore.NetworkError) as error:
            return PostResult(None, self._describe(target, error, deadline), time.monotonic() - started_at)
        except httpcore.ProtocolError:
            return PostResult(None, f"{target.host} did not answer with HTTP", time.monotonic() - started_at)
        seconds = time.monotonic() - started_at
        if status in _ACCEPTED:
            return PostResult(status, None, seconds)
        hint = "; redirects are not followed, use the final address" if status in _REDIRECTS else ""
        return PostResult(status, f"{target.host} answered {status} instead of 2xx{hint}", seconds, retry_after)

    def _exchange(
        self, target: Target, body: bytes, headers: Mapping[str, str], deadline: Deadline
    ) -> tuple[int, float | None]:
        """Return the status and the value of ``Retry-After`` in seconds."""
        if self._ssl_context is None:
            self._ssl_context = self.make_ssl_context()
        backend = CheckedBackend(self.policy, deadline, resolver=self.resolver, connector=self.connector)
        limit = self.timeout_seconds
        timeouts = {"connect": min(CONNECT_SECONDS, limit), "read": limit, "write": limit, "pool": limit}
        all_headers = {
            "Host": target.authority,
            "User-Agent": "potstill",
            "Accept": "*/*",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **headers,
        }
        request = httpcore.Request(
            "POST",
            httpcore.URL(scheme=b"https", host=target.host, port=target.port, target=target.path),
            headers=list(all_headers.items()),
            content=body,
            extensions={"timeout": timeouts},
        )
        with httpcore.ConnectionPool(ssl_context=self._ssl_context, network_backend=backend, max_connections=1) as pool:
            response = pool.handle_request(request)
            response.close()
        return response.status, _retry_after(response)

    def _describe(self, target: Target, error: Exception, deadline: Deadline) -> str:
        if isinstance(error, UrlNotAllowed):
            return error.detail
        if deadline.is_expired or isinstance(error, httpcore.TimeoutException):
            return f"{target.host} did not answer within {self.timeout_seconds:g} s"
        if isinstance(error, DownloadFailed):
            return error.detail
        message = " ".join(str(error).split())[:200]
        return f"{target.host} could not be reached: {message or type(error).__name__}"


def _retry_after(response: httpcore.Response) -> float | None:
    """Return ``Retry-After`` if it is a number of seconds."""
    value = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
    return float(value) if value.isdigit() and len(value) < 10 else None
