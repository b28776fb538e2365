"""Watches over one piece of work in a process of its own: beats its lease, carries requests, ends it by force.

The work cannot hold this up: an export that keeps the interpreter's lock for a minute loses no lease,
and a job that does not react to a cancel is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog

from core.reporting import Control
from core.store.db import DatabaseUnavailable
from core.store.job_leases import LeaseLost
from worker.process.forked import ForkedProcess
from worker.process.shared_flags import DRAIN, SharedByte
from worker.process.watchdog import Watchdog

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.1  # how soon a drain is seen
LEAVE_SECONDS = 1.0  # between the last write of work that ends and the end of its process
DRAIN_SECONDS = 16.0  # to save and hand back; the supervisor's patience is longer

# Exit statuses of work. Of all others nobody knows how it ended.
DONE = 0  # the database says how it ended
LEASE_LOST = 3
TEMPORARY = 75  # something that is needed is away, and another attempt may go well (EX_TEMPFAIL)

CONTROLS = tuple(Control)  # a control travels to the working process as its place in this tuple


class ExitReason(StrEnum):
    """How the work came to its end."""

    DONE = "done"  # it said so itself and left its mark in the database
    CRASHED = "crashed"  # it ended without a word
    LEASE_LOST = "lease_lost"  # somebody else has it now
    FORCED = "forced"  # it was killed as it did not react to `Guardian.asked`
    STALLED = "stalled"  # it was killed as it did nothing for too long


class Beat(Protocol):
    """Renews the lease and says what was asked for. Raises ``LeaseLost`` or ``DatabaseUnavailable``."""

    def __call__(self) -> Control:
        """Renew."""


@dataclass(frozen=True, slots=True)
class MonitorIntervals:
    """How often, how long; in seconds."""

    beat: float
    outage: float  # the work goes on for so long while the database is away
    force_cancel: float
    drain: float = DRAIN_SECONDS


class ProcessMonitor:
    """Starts the work and stays with it to its end."""

    def __init__(self, beat: Beat, rhythm: MonitorIntervals, watchdog: Watchdog | None = None) -> None:
        self._beat = beat
        self._rhythm = rhythm
        self.watchdog = watchdog or Watchdog()
        self.status: int | None = None  # of the process, once it has ended; negative: the signal that ended it
        self.peak_bytes: int | None = None
        self.last_words: list[str] = []
        self._shared = SharedByte()
        self._renewed_at = time.monotonic()
        self._asked_at: float | None = None
        self._to_leave_at: float | None = None  # since when this worker wants its work gone, whatever else was asked
        self._requested = Control.GO  # by the database; a drain is this worker's own
        self.asked = Control.GO

    def run(self, work: Callable[[Callable[[], Control]], int]) -> ExitReason:
        """Fork, call ``work(control)`` there, and watch. It ends with status 0 if it ended as it should."""
        process = ForkedProcess(lambda: self._begin(work))
        try:
            return self._watch(process)
        finally:
            process.kill()  # nothing to do for one that has ended
            self.status, self.peak_bytes = process.status, process.peak_bytes
            self.last_words = self.watchdog.log_tail.lines()
            self.watchdog.log_tail.close()

    def _watch(self, process: ForkedProcess) -> ExitReason:
        self._renewed_at, next_beat = time.monotonic(), time.monotonic() + self._rhythm.beat
        while (status := process.wait(POLL_SECONDS)) is None:
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + self._rhythm.beat
                if not self._renew():
                    # Work that has just left by itself holds no lease either, and is about to exit.
                    return ExitReason.DONE if process.wait(LEAVE_SECONDS) == DONE else ExitReason.LEASE_LOST
            is_to_leave = DRAIN.get() or self.watchdog.time_is_over()
            if is_to_leave and self._to_leave_at is None:
                self._to_leave_at = time.monotonic()
            self._ask(_stronger(self._requested, Control.DRAIN) if is_to_leave else self._requested)
            if self._is_overdue():
                log.warning("work.killed", asked=self.asked, pid=process.pid)
                return ExitReason.FORCED
            self.watchdog.look(process)
            if self.watchdog.is_stalled():
                self.watchdog.ask_where_it_stands(process)
                return ExitReason.STALLED
        if status == DONE:
            return ExitReason.DONE
        log.warning("work.crashed", status=status, pid=process.pid)
        return ExitReason.CRASHED

    def control(self) -> Control:
        """What the work is to do: read by its process before every step."""
        self.watchdog.touch()
        return CONTROLS[self._shared.get()]

    # --- inside --------------------------------------------------------------------------------

    def _begin(self, work: Callable[[Callable[[], Control]], int]) -> int:
        self.watchdog.begin()
        return work(self.control)

    def _renew(self) -> bool:
        """Beat. False: the lease is gone, so nothing that the work does counts any more."""
        try:
            self._requested = self._beat()
        except LeaseLost:
            return False
        except DatabaseUnavailable:
            silent = time.monotonic() - self._renewed_at
            log.warning("database.away", silent_seconds=round(silent, 1))
            # Going on does no harm: every write needs the lease, and it is renewed if nobody took the job meanwhile.
            return silent < self._rhythm.outage
        self._renewed_at = time.monotonic()
        return True

    def _ask(self, control: Control) -> None:
        if control is self.asked:
            return
        self.asked, self._asked_at = control, time.monotonic()
        self._shared.set(CONTROLS.index(control))

    def _is_overdue(self) -> bool:
        # A pause alone may take its time. One that was asked for before a drain must not hold the drain up.
        return self._is_past(self._to_leave_at, self._rhythm.drain) or (
            self.asked is Control.CANCEL and self._is_past(self._asked_at, self._rhythm.force_cancel)
        )

    @staticmethod
    def _is_past(moment: float | None, patience: float) -> bool:
        return moment is not None and time.monotonic() - moment > patience


_STRENGTH = (Control.GO, Control.STOP, Control.DRAIN, Control.PAUSE, Control.CANCEL)


def _stronger(one: Control, other: Control) -> Control:
    return max(one, other, key=_STRENGTH.index)
