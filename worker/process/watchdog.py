"""State that a monitor shares with its process: last activity, time limit, log tail.

Created before the fork. The process updates its last activity when it reads the requested control, which the engine
does before every step. A process without activity for long has stalled.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Iterable

import structlog

from core.system.oom_kills import POLL_SECONDS, OomKillMonitor
from worker.process.forked import ForkedProcess
from worker.process.log_tail import TRACEBACK_SIGNAL, LogTail
from worker.process.usage import Usage

TRACEBACK_SECONDS = 1.0  # for a stalled process to write its traceback; a stopped one (SIGSTOP) cannot

log = structlog.get_logger(__name__)


class SharedTimestamp:
    """A timestamp of the monotonic clock in shared memory, without a lock.

    A memoryview writes and reads its eight aligned bytes at once. ``struct.pack_into`` does not: it writes zeros first,
    and a reader at that instant would see a process that has stalled since the machine started.
    """

    def __init__(self) -> None:
        self._timestamp = memoryview(mmap.mmap(-1, 8)).cast("d")
        self.touch()

    def touch(self) -> None:
        """Set it to the current time."""
        self._timestamp[0] = time.monotonic()

    def age(self) -> float:
        """Return the seconds since the last :meth:`touch`."""
        return time.monotonic() - self._timestamp[0]


class Watchdog:
    """Stall timeout and time limit of a process, in seconds; infinite: no limit."""

    def __init__(
        self, *, stall_seconds: float = math.inf, remaining_seconds: float = math.inf, secrets: Iterable[str] = ()
    ) -> None:
        self.log_tail = LogTail(secrets)
        self.usage: Usage | None = None  # at the last poll
        self._active_at = SharedTimestamp()
        self._stall_seconds = stall_seconds
        self._deadline = time.monotonic() + remaining_seconds
        self._polled_at = -math.inf
        self._oom_kills = OomKillMonitor()

    # --- monitor and process ----------------------------------------------------------------------

    def touch(self) -> None:
        """Record activity of the process."""
        self._active_at.touch()

    def is_time_over(self) -> bool:
        """Whether the process has reached its time limit."""
        return time.monotonic() >= self._deadline

    # --- process ----------------------------------------------------------------------------------

    def attach(self) -> None:
        """Make this the watchdog of the current process; the first call in the child."""
        self.touch()
        self.log_tail.attach()
        _Current.watchdog = self

    # --- monitor ----------------------------------------------------------------------------------

    def poll(self, process: ForkedProcess) -> None:
        """Read the memory usage and the OOM kill count, at most once a second."""
        now = time.monotonic()
        if now - self._polled_at < POLL_SECONDS:
            return
        self._polled_at = now
        self.usage = Usage.read(process.pid) or self.usage
        self._oom_kills.poll(process.pid)

    def saw_oom_kill(self) -> bool:
        """Whether the OOM killer has killed a process here within the last seconds."""
        return self._oom_kills.has_recent_kill()

    def is_stalled(self) -> bool:
        """Whether the process was inactive for longer than the stall timeout."""
        return self._active_at.age() > self._stall_seconds

    def dump_traceback(self, process: ForkedProcess) -> None:
        """Let the process write the tracebacks of all its threads, if it still can."""
        process.signal(TRACEBACK_SIGNAL)
        process.wait(TRACEBACK_SECONDS)
        log.error(
            "process.stalled",
            pid=process.pid,
            inactive_seconds=round(self._active_at.age(), 1),
            traceback=self.log_tail.traceback(),
        )


class _Current:
    """The watchdog of this process."""

    watchdog: Watchdog | None = None


def current_watchdog() -> Watchdog:
    """Return the watchdog of this process; one without limits if no monitor forked it."""
    if _Current.watchdog is None:
        _Current.watchdog = Watchdog()
    return _Current.watchdog
