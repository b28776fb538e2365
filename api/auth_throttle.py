"""Wrong keys by address: whoever tries many has to wait, so that keys are not guessed at the speed of the line.

Each process counts by itself: an attacker gains a factor of their number, and nobody needs Valkey to be refused.
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

_REMEMBERED = 10_000  # addresses
_MINUTE = 60.0  # seconds


def client_address(request: Request) -> str:
    """The address that a request comes from. uvicorn has put in what a trusted proxy says of it."""
    return request.client.host if request.client is not None else ""


class AuthThrottle:
    """A bucket of wrong keys for each address; it fills in a minute. Thread-safe."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # wrong keys not forgotten yet, and when
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raise :class:`RateLimited` where this address has sent too many wrong keys."""
        if not self._per_minute:
            return
        with self._lock:
            spent = self._now(_network(address))
        if spent > self._per_minute - 1:
            wait = max(1, math.ceil((spent - self._per_minute + 1) * _MINUTE / self._per_minute))
            raise RateLimited(
                f"Too many wrong keys came from your address; check the key and try again in {wait} s.",
                extra={"retry_after_seconds": wait},
            )

    def count(self, address: str) -> None:
        """Note a wrong key."""
        network = _network(address)
        with self._lock:
            self._spent[network] = (self._now(network) + 1, self._clock())
            self._spent.move_to_end(network)
            while len(self._spent) > _REMEMBERED:
                self._spent.popitem(last=False)

    def _now(self, network: str) -> float:
        spent, at = self._spent.get(network, (0.0, 0.0))
        return max(0.0, spent - (self._clock() - at) * self._per_minute / _MINUTE)


def _network(address: str) -> str:
    """An IPv6 host has a whole /64 to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
