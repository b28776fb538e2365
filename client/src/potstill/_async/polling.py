"""Repeated reads of an object that changes, through outages of the service."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from potstill._async.runtime import sleep
from potstill.calls import retry_delay_seconds
from potstill.outages import OUTAGE_ERRORS, Outage

Read = TypeVar("Read", covariant=True)  # noqa: PLC0105 - also of functions


class _Reader(Protocol[Read]):
    async def __call__(self) -> Read: ...


class Poll:
    """Reads until a deadline. The first read fails at once; later ones are repeated during an outage."""

    def __init__(self, *, timeout_seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadline = None if timeout_seconds is None else clock() + timeout_seconds
        self._has_read = False

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return self._deadline is not None and self._clock() >= self._deadline

    async def read(self, reader: _Reader[Read]) -> Read:
        """Return what ``reader`` returns. Raises its error if that is no outage, or after a day, or when it is late."""
        outage = Outage(self._clock)
        while True:
            try:
                found = await reader()
            except OUTAGE_ERRORS as error:
                if not self._has_read or self.is_late or not outage.accepts(error):
                    raise
                await sleep(retry_delay_seconds(outage.attempt))
            else:
                self._has_read = True
                return found
