"""Connections to checked addresses alone, each with an end in time.

A name is resolved once for each connection, every answer is checked, and the connection goes to an address that
was checked: a second look-up, which could say something else, never happens. TLS still asks for the name.
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
from core.fetch.targets import NetworkPolicy, require_admitted
from core.ingest_errors import DownloadFailed

CONNECT_SECONDS = 10.0
RESOLVE_SECONDS = 10.0
_MAX_ADDRESSES = 4  # tried one after the other

Resolver = Callable[[str], Sequence[Address]]
Connector = Callable[[Address, int, float], httpcore.NetworkStream]


class Deadline:
    """The time by which everything must be done."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self._seconds = seconds

    def at_most(self, seconds: float) -> float:
        """So many seconds, or those that are left. Raises :class:`DownloadFailed` where none are."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise self.passed()
        return min(seconds, left)

    def passed(self) -> DownloadFailed:
        """The error for being late."""
        return DownloadFailed(f"the download took longer than {self._seconds:g} s; use a faster or smaller source")

    @property
    def is_past(self) -> bool:
        """Whether there is no time left."""
        return time.monotonic() >= self._ends


def resolve(host: str) -> Sequence[Address]:
    """Ask this system's resolver, for a limited time. Raises :class:`DownloadFailed`."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()  # getaddrinfo has no time limit of its own
    try:
        found = answers.get(timeout=RESOLVE_SECONDS)
    except queue.Empty:
        raise DownloadFailed(f"{host} could not be looked up within {RESOLVE_SECONDS:g} s; try again later") from None
    if isinstance(found, OSError):
        raise DownloadFailed(f"{host} could not be looked up; is it written correctly?") from None
    return list(dict.fromkeys(ip_address(answer[4][0]) for answer in found))


def connect(address: Address, port: int, seconds: float) -> httpcore.NetworkStream:
    """Open a connection to an address. Raises ``httpcore.ConnectError`` or ``httpcore.ConnectTimeout``."""
    return httpcore.SyncBackend().connect_tcp(str(address), port, timeout=seconds)


class CheckedBackend(httpcore.NetworkBackend):
    """What httpcore connects through. ``resolver`` and ``connector`` are the system's own outside of tests."""

    def __init__(
        self, reach: NetworkPolicy, deadline: Deadline, *, resolver: Resolver = resolve, connector: Connector = connect
    ) -> None:
        self._reach = reach
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
        """Resolve, check, and connect to what was checked. Raises :class:`core.ingest_errors.UrlNotAllowed`."""
        addresses = self._addresses(host)
        require_admitted(host, addresses, self._reach)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses[:_MAX_ADDRESSES]:
            try:
                seconds = self._deadline.at_most(timeout or CONNECT_SECONDS)
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
    """A connection that nobody can hold open by sending a byte now and then."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.at_most(timeout or CONNECT_SECONDS))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.at_most(timeout or CONNECT_SECONDS))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.at_most(timeout or CONNECT_SECONDS)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, seconds), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
