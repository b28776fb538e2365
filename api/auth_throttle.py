"""Limit on wrong API keys per client address, so that keys cannot be guessed at network speed.

Each process counts on its own. This multiplies the limit by the number of processes, but needs no Valkey.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from fastapi import Request

from core.errors import RateLimited

_MAX_ADDRESSES = 10_000
_MINUTE = 60.0  # seconds


def client_address(request: Request) -> str:
    """Return the client's address. uvicorn has already applied the forwarding headers of trusted proxies."""
    return request.client.host if request.client is not None else ""


class AuthThrottle:
    """A leaky bucket of wrong keys per address that drains within a minute. Thread-safe."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # number of wrong keys, and time of update
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raise :class:`RateLimited` if this address has sent too many wrong keys."""
        if not self._per_minute:
            return
        with self._lock:
            level = self._current_level(_network(address))
        if level > self._per_minute - 1:
            wait = max(1, math.ceil((level - self._per_minute + 1) * _MINUTE / self._per_minute))
            raise RateLimited(
                f"Too many wrong keys came from your address; check the key and try again in {wait} s.",
                extra={"retry_after_seconds": wait},
            )

    def count(self, address: str) -> None:
        """Count a wrong key."""
        network = _network(address)
        with self._lock:
            self._levels[network] = (self._current_level(network) + 1, self._clock())
            self._levels.move_to_end(network)
            while len(self._levels) > _MAX_ADDRESSES:
                self._levels.popitem(last=False)

    def _current_level(self, network: str) -> float:
        level, updated_at = self._levels.get(network, (0.0, 0.0))
        return max(0.0, level - (self._clock() - updated_at) * self._per_minute / _MINUTE)


def _network(address: str) -> str:
    """Return the address, or the /64 network of an IPv6 address: one host owns all of it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
