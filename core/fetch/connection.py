"""Connect only to checked addresses, with a deadline.

A host name is resolved once per connection, and every resolved address is checked. The connection goes to a checked
address. A second lookup, whose result could differ (DNS rebinding), never happens. TLS still verifies the host name.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Any

import httpcore

from core.fetch.addresses import Address
from core.fetch.targets import NetworkPolicy, check_addresses
from core.ingest_errors import DownloadFailed

CONNECT_SECONDS = 10.0
RESOLVE_SECONDS = 10.0
_MAX_ADDRESSES = 4  # tried in order

Resolver = Callable[[str], Sequence[Address]]
Connector = Callable[[Address, int, float], httpcore.NetworkStream]


class Deadline:
    """Time limit of a download."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds
        self._seconds = seconds

    def limit(self, seconds: float) -> float:
        """Return ``seconds``, capped by the remaining time. Raises :class:`DownloadFailed` if no time remains."""
        remaining = self._ends_at - time.monotonic()
        if remaining <= 0:
            raise self.error()
        return min(seconds, remaining)

    def error(self) -> DownloadFailed:
        """Create the error for an exceeded deadline."""
        return DownloadFailed(f"the download took longer than {self._seconds:g} s; use a faster or smaller source")

    @property
    def is_expired(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self._ends_at


def resolve(host: str) -> Sequence[Address]:
    """Resolve a host name with the system's resolver and a timeout. Raises :class:`DownloadFailed`."""
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def lookup() -> None:
        try:
            results.put(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except OSError as error:
            results.put(error)

    threading.Thread(target=lookup, daemon=True).start()  # getaddrinfo has no timeout
    try:
        result = results.get(timeout=RESOLVE_SECONDS)
    except queue.Empty:
        raise DownloadFailed(f"{host} could not be resolved within {RESOLVE_SECONDS:g} s; try again later") from None
    if isinstance(result, OSError):
        raise DownloadFailed(f"{host} could not be resolved; check its spelling") from None
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in result))


def connect(address: Address, port: int, seconds: float) -> httpcore.NetworkStream:
    """Open a connection to an address. Raises ``httpcore.ConnectError`` or ``httpcore.ConnectTimeout``."""
    return httpcore.SyncBackend().connect_tcp(str(address), port, timeout=seconds)


class CheckedBackend(httpcore.NetworkBackend):
    """Network backend of httpcore that checks addresses. Tests replace ``resolver`` and ``connector``."""

    def __init__(
        self, policy: NetworkPolicy, deadline: Deadline, *, resolver: Resolver = resolve, connector: Connector = connect
    ) -> None:
        self._policy = policy
        self._deadline = deadline
        self._resolver = resolver
        self._connector = connector

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 - httpcore's interface
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        """Resolve a host, check its addresses and connect. Raises :class:`core.ingest_errors.UrlNotAllowed`."""
        addresses = self._addresses(host)
        check_addresses(host, addresses, self._policy)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses[:_MAX_ADDRESSES]:
            try:
                seconds = self._deadline.limit(timeout or CONNECT_SECONDS)
                return _Stream(self._connector(address, port, seconds), self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _addresses(self, host: str) -> Sequence[Address]:
        try:
            return [ip_address(host)]
        except ValueError:
            return self._resolver(host)


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes end at the deadline, even if the peer sends single bytes."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.limit(timeout or CONNECT_SECONDS))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.limit(timeout or CONNECT_SECONDS))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.limit(timeout or CONNECT_SECONDS)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, seconds), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
