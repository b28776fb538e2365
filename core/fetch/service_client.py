"""HTTP client of one service that the operator configured.

It connects to the host and port of the settings only, follows no redirect, and uses no proxy, cookie or environment
variable. Messages contain the host name, never tokens or bodies.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import httpcore

from core.fetch.connection import CONNECT_SECONDS, CheckedBackend, Connector, Deadline, Resolver, connect, resolve
from core.fetch.targets import NetworkPolicy, Target, parse_service_url
from core.ingest_errors import DownloadFailed, UrlNotAllowed

MAX_RESPONSE_BYTES = 16 * 1024**2


class ServiceUnreachable(Exception):
    """The service did not answer with HTTP, or not in time; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class ServiceResponse:
    """Status and body of a response."""

    status: int
    body: bytes


@dataclass(slots=True, kw_only=True)
class ServiceClient:
    """Sends requests to ``base_url``; thread-safe. Tests replace ``resolver`` and ``connector``.

    ``headers`` go with each request. ``timeout_seconds`` limits a whole request, unless it names its own limit.
    Raises :class:`core.ingest_errors.UrlNotAllowed` for an address that cannot be used.
    """

    base_url: str
    timeout_seconds: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    resolver: Resolver = resolve
    connector: Connector = connect
    make_ssl_context: Callable[[], ssl.SSLContext] = ssl.create_default_context
    _target: Target = field(init=False)
    _policy: NetworkPolicy = field(init=False)
    _ssl_context: ssl.SSLContext | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._target, self._policy = parse_service_url(self.base_url.rstrip("/"))

    @property
    def host(self) -> str:
        """Host of the service, for messages."""
        return self._target.host

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] = b"",
        *,
        size_bytes: int | None = None,
        content_type: str = "application/json",
        timeout_seconds: float | None = None,
    ) -> ServiceResponse:
        """Send one request; return the response, whatever its status. Raises :class:`ServiceUnreachable`.

        ``path`` begins with a slash and is percent-encoded. ``size_bytes`` is the size of a body in chunks.
        """
        seconds = timeout_seconds or self.timeout_seconds
        deadline = Deadline(seconds)
        length = len(body) if isinstance(body, bytes) else size_bytes
        sent = {"Content-Type": content_type, "Content-Length": str(length)} if length is not None else {}
        request = self._request(method, path, body, sent, seconds)
        try:
            return self._exchange(request, deadline)
        except httpcore.TimeoutException:
            raise ServiceUnreachable(f"{self.host} did not answer within {seconds:g} s") from None
        except (UrlNotAllowed, DownloadFailed) as error:
            late = f"{self.host} did not answer within {seconds:g} s"
            raise ServiceUnreachable(late if deadline.is_expired else error.detail) from None
        except httpcore.NetworkError as error:
            message = " ".join(str(error).split())[:200] or type(error).__name__
            raise ServiceUnreachable(f"{self.host} could not be reached: {message}") from None
        except httpcore.ProtocolError:
            raise ServiceUnreachable(f"{self.host} did not answer with HTTP") from None

    def _request(
        self, method: str, path: str, body: bytes | Iterable[bytes], sent: Mapping[str, str], seconds: float
    ) -> httpcore.Request:
        target, prefix = self._target, self._target.path.rstrip("/")
        timeouts = {"connect": min(CONNECT_SECONDS, seconds), "read": seconds, "write": seconds, "pool": seconds}
        headers = {
            "Host": target.authority,
            "User-Agent": "potstill",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **sent,
            **self.headers,
        }
        url = httpcore.URL(scheme=target.scheme.encode(), host=target.host, port=target.port, target=f"{prefix}{path}")
        extensions = {"timeout": timeouts}
        return httpcore.Request(method, url, headers=list(headers.items()), content=body, extensions=extensions)

    def _exchange(self, request: httpcore.Request, deadline: Deadline) -> ServiceResponse:
        if self._target.scheme == "https" and self._ssl_context is None:
            self._ssl_context = self.make_ssl_context()
        backend = CheckedBackend(self._policy, deadline, resolver=self.resolver, connector=self.connector)
        with httpcore.ConnectionPool(ssl_context=self._ssl_context, network_backend=backend, max_connections=1) as pool:
            response = pool.handle_request(request)
            try:
                return ServiceResponse(response.status, _read(response, self.host))
            finally:
                response.close()


def _read(response: httpcore.Response, host: str) -> bytes:
    content = bytearray()
    for chunk in response.iter_stream():
        content += chunk
        if len(content) > MAX_RESPONSE_BYTES:
            raise ServiceUnreachable(f"{host} answered with more than {MAX_RESPONSE_BYTES:,} bytes")
    return bytes(content)
