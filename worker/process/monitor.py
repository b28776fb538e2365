"""Monitor of one forked process: renews its lease, forwards requested actions, kills it if it does not react.

The process cannot block its monitor. An export that holds the GIL for a minute loses no lease, and a job that ignores
a cancel is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from core.reporting import Control
from core.store.db import DatabaseUnavailable
from core.store.job_leases import LeaseLost
from worker.process.forked import ForkedProcess
from worker.process.shared_flags import DRAIN, SharedByte
from worker.process.watchdog import Watchdog

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.1  # delay until a drain is seen
LEAVE_SECONDS = 10.0  # between a process's last write and its exit: it deletes files, on a machine under load
DRAIN_SECONDS = 16.0  # to save and release; the supervisor's stop timeout is longer

# Exit statuses of the process. All others mean that it crashed.
EXIT_DONE = 0  # the database holds the result
EXIT_LEASE_LOST = 3
EXIT_TEMPORARY = 75  # a dependency is unavailable, and another attempt may succeed (EX_TEMPFAIL)

CONTROLS = tuple(Control)  # the shared byte holds an index into this tuple


class ExitReason(StrEnum):
    """Why the process ended."""

    DONE = "done"  # it recorded its result in the database
    CRASHED = "crashed"  # it ended without a record
    LEASE_LOST = "lease_lost"  # another attempt holds the lease
    FORCED = "forced"  # killed: it did not react to `ProcessMonitor.requested` in time
    STALLED = "stalled"  # killed: it made no progress within the stall timeout


@dataclass(frozen=True, slots=True)
class MonitorIntervals:
    """Intervals and timeouts in seconds."""

    control_poll_seconds: float  # between two calls of `renew_lease`
    outage_seconds: float  # for which the process continues while the database is unavailable
    cancel_grace_seconds: float  # from a cancel to the kill
    drain_seconds: float = DRAIN_SECONDS  # from a drain to the kill
    leave_seconds: float = LEAVE_SECONDS  # from a lease without a holder to the kill


class ProcessMonitor:
    """Forks a process and monitors it until it ends.

    Args:
        renew_lease: Renews the lease when due and returns the requested control. Raises ``LeaseLost`` or
            ``DatabaseUnavailable``.
        intervals: Intervals and timeouts.
        watchdog: Stall timeout and time limit; without it the process has neither.
    """

    def __init__(
        self, renew_lease: Callable[[], Control], intervals: MonitorIntervals, watchdog: Watchdog | None = None
    ) -> None:
        self._renew_lease = renew_lease
        self._intervals = intervals
        self.watchdog = watchdog or Watchdog()
        self.status: int | None = None  # exit status of the process; negative: the signal that ended it
        self.peak_bytes: int | None = None
        self.log_lines: list[str] = []
        self._shared = SharedByte()
        self._renewed_at = time.monotonic()
        self._requested_at: float | None = None
        self._drained_at: float | None = None  # when this worker first wanted the process to leave
        self._requested_by_database = Control.GO
        self.requested = Control.GO  # by the database or by a drain of this worker

    def run(self, work: Callable[[Callable[[], Control]], int]) -> ExitReason:
        """Fork, call ``work(control)`` in the child, and monitor it. ``work`` returns the child's exit status."""
        process = ForkedProcess(lambda: self._run_child(work))
        try:
            return self._watch(process)
        finally:
            process.kill()  # no effect on a process that has ended
            self.status, self.peak_bytes = process.status, process.peak_bytes
            self.log_lines = self.watchdog.log_tail.lines()
            self.watchdog.log_tail.close()

    def control(self) -> Control:
        """Return the requested control; the child calls this before every step."""
        self.watchdog.touch()
        return CONTROLS[self._shared.get()]

    def _run_child(self, work: Callable[[Callable[[], Control]], int]) -> int:
        self.watchdog.attach()
        return work(self.control)

    def _watch(self, process: ForkedProcess) -> ExitReason:
        interval = self._intervals.control_poll_seconds
        self._renewed_at, next_poll = time.monotonic(), time.monotonic() + interval
        while (status := process.wait(POLL_SECONDS)) is None:
            if time.monotonic() >= next_poll:
                next_poll = time.monotonic() + interval
                if not self._has_lease():
                    # A process that has just released its lease holds none either, and is about to exit.
                    status = process.wait(self._intervals.leave_seconds)
                    return ExitReason.DONE if status == EXIT_DONE else ExitReason.LEASE_LOST
            self._request(self._strongest_request())
            if self._is_overdue():
                log.warning("process.killed", control=self.requested, pid=process.pid)
                return ExitReason.FORCED
            self.watchdog.poll(process)
            if self.watchdog.is_stalled():
                self.watchdog.dump_traceback(process)
                return ExitReason.STALLED
        if status == EXIT_DONE:
            return ExitReason.DONE
        log.warning("process.crashed", status=status, pid=process.pid)
        return ExitReason.CRASHED

    def _has_lease(self) -> bool:
        """Renew the lease. False: it is lost, so the process can write nothing more."""
        try:
            self._requested_by_database = self._renew_lease()
        except LeaseLost:
            return False
        except DatabaseUnavailable:
            outage = time.monotonic() - self._renewed_at
            log.warning("database.unavailable", outage_seconds=round(outage, 1))
            # To continue is safe: every write needs the lease, and it can be renewed unless the row was claimed.
            return outage < self._intervals.outage_seconds
        self._renewed_at = time.monotonic()
        return True

    def _strongest_request(self) -> Control:
        if not (DRAIN.get() or self.watchdog.is_time_over()):
            return self._requested_by_database
        if self._drained_at is None:
            self._drained_at = time.monotonic()
        return max(self._requested_by_database, Control.DRAIN, key=_STRENGTH.index)

    def _request(self, control: Control) -> None:
        if control is self.requested:
            return
        self.requested, self._requested_at = control, time.monotonic()
        self._shared.set(CONTROLS.index(control))

    def _is_overdue(self) -> bool:
        # A pause alone has no timeout. A pause before a drain does not delay the drain.
        return _is_past(self._drained_at, self._intervals.drain_seconds) or (
            self.requested is Control.CANCEL and _is_past(self._requested_at, self._intervals.cancel_grace_seconds)
        )


_STRENGTH = (Control.GO, Control.STOP, Control.DRAIN, Control.PAUSE, Control.CANCEL)


def _is_past(since: float | None, seconds: float) -> bool:
    return since is not None and time.monotonic() - since > seconds
