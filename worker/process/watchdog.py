"""What a guardian and the work that it guards share: a pulse, the time that is left, the last words.

Made before the fork. The work touches the pulse whenever it looks for requests, which the engine does before every
step; where nothing touches it for long, the work hangs.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Iterable

import structlog

from core.system.oom_kills import LOOK_SECONDS, OomKillMonitor
from worker.process.forked import ForkedProcess
from worker.process.log_tail import TRACEBACK_SIGNAL, LogTail
from worker.process.usage import Usage

TRACEBACK_SECONDS = 1.0  # for work that hangs to say where; one that is stopped cannot

log = structlog.get_logger(__name__)


class SharedMoment:
    """A moment of the monotonic clock that forked processes share, without a lock.

    A view writes and reads its eight aligned bytes at once. ``struct.pack_into`` does not: it fills them with zeros
    first, and whoever reads just then takes work that runs for work that has hung since the machine started.
    """

    def __init__(self) -> None:
        self._moment = memoryview(mmap.mmap(-1, 8)).cast("d")
        self.touch()

    def touch(self) -> None:
        """Let it be now."""
        self._moment[0] = time.monotonic()

    def age(self) -> float:
        """The seconds since it was touched."""
        return time.monotonic() - self._moment[0]


class Watchdog:
    """Sees whether work still does anything, and for how long it may go on. Seconds; infinite: no limit."""

    def __init__(
        self, *, stall_seconds: float = math.inf, left_seconds: float = math.inf, secrets: Iterable[str] = ()
    ) -> None:
        self.log_tail = LogTail(secrets)
        self.usage: Usage | None = None  # as it was last seen
        self._pulse = SharedMoment()
        self._stall_seconds = stall_seconds
        self._ends_at = time.monotonic() + left_seconds
        self._looked_at = -math.inf
        self._kills = OomKillMonitor()

    # --- both sides -------------------------------------------------------------------------------

    def touch(self) -> None:
        """Say that the work gets on."""
        self._pulse.touch()

    def time_is_over(self) -> bool:
        """Whether the work has run for as long as it may."""
        return time.monotonic() >= self._ends_at

    # --- the work's side --------------------------------------------------------------------------

    def begin(self) -> None:
        """Called first thing in the work's process."""
        self.touch()
        self.log_tail.listen()
        _Current.watchdog = self

    # --- the guardian's side ----------------------------------------------------------------------

    def look(self, process: ForkedProcess) -> None:
        """Note what is seen of the process; cheap, about once a second."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        self.usage = Usage.of(process.pid) or self.usage
        self._kills.look(process.pid)

    def saw_a_kill_for_memory(self) -> bool:
        """Whether the kernel has ended something here for want of memory within the last seconds."""
        return self._kills.lately()

    def is_stalled(self) -> bool:
        """Whether the work has done nothing for too long."""
        return self._pulse.age() > self._stall_seconds

    def ask_where_it_stands(self, process: ForkedProcess) -> None:
        """Have the tracebacks of all its threads written, if it can still do that."""
        process.signal(TRACEBACK_SIGNAL)
        process.wait(TRACEBACK_SECONDS)
        log.error(
            "work.stalled", pid=process.pid, silent_seconds=round(self._pulse.age(), 1), where=self.log_tail.traceback()
        )


class _Current:
    """The watchdog of the work that this process was forked for."""

    watchdog: Watchdog | None = None


def current() -> Watchdog:
    """The watchdog of this process's work; one without limits where nobody guards it."""
    if _Current.watchdog is None:
        _Current.watchdog = Watchdog()
    return _Current.watchdog
