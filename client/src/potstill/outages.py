"""Outages of the service, through which a program that waits goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from potstill.calls import is_temporary
from potstill.errors import ApiError, ServiceUnreachable

MAX_OUTAGE_SECONDS = 24 * 3600.0
OUTAGE_ERRORS = (ServiceUnreachable, ApiError, httpx.TransportError)


class Outage:
    """An outage of the service: reported once by ``say``, and tolerated for a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, say: Callable[[str], None] | None = None) -> None:
        self._clock = clock
        self._say = say
        self._started_at: float | None = None
        self.attempt = 0

    def accepts(self, error: Exception, *, limit_seconds: float = MAX_OUTAGE_SECONDS) -> bool:
        """Report the start of an outage; False if the error is none, or if it lasts longer than the limit."""
        if isinstance(error, ApiError) and not is_temporary(error):
            return False
        if self._started_at is None:
            self._started_at, self.attempt = self._clock(), 0
            self._report("The service does not respond; the job goes on. Reconnecting…")
        self.attempt += 1
        return self._clock() - self._started_at <= limit_seconds

    def end(self) -> None:
        """Report the end of an outage, if there was one."""
        if self._started_at is not None:
            self._started_at = None
            self._report("Connected again.")

    def _report(self, text: str) -> None:
        if self._say is not None:
            self._say(text)
