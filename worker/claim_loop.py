"""The claim loop of job and ingest workers: claim a row, fork, monitor the process, record its exit, wake for more.

This module does not import torch. :meth:`Workload.run` imports the code of the forked process late; a worker preloads
it at start-up (``worker.app.PRELOAD``).
"""

from __future__ import annotations

import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog
from opentelemetry.trace import INVALID_SPAN, Span

from core import tracing
from core.reporting import Control
from core.settings import Settings
from core.store.db import DatabaseUnavailable, Session
from core.store.job_leases import LeaseLost
from core.store.tables import Dataset, Job, Model
from core.store.view_offers import ClaimedOffer
from worker.context import Context, current_context
from worker.process.log_tail import LogTail
from worker.process.monitor import ExitReason, MonitorIntervals, ProcessMonitor
from worker.process.shared_flags import DRAIN
from worker.process.watchdog import Watchdog

log = structlog.get_logger(__name__)

Row = TypeVar("Row", bound=Job | Dataset | Model | ClaimedOffer)


@dataclass(frozen=True, slots=True)
class Claimed(Generic[Row]):
    """A claimed row and the seconds for which it may still run."""

    row: Row
    remaining_seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class LogEvents:
    """Names of the log events of a workload."""

    claimed: str
    exited: str
    exit_not_recorded: str


class Workload(ABC, Generic[Row]):
    """One kind of rows that workers claim: jobs, datasets, models, or offered views of another worker's job."""

    events: LogEvents

    @abstractmethod
    def claim(self, session: Session, context: Context) -> Claimed[Row] | None:
        """Claim the next row; None if none waits."""

    @abstractmethod
    def log_fields(self, row: Row) -> Mapping[str, object]:
        """Return the fields of every log line about the row."""

    def open_span(self, context: Context, row: Row) -> AbstractContextManager[Span]:  # noqa: ARG002
        """Open the span of an attempt; by default none."""
        return nullcontext(INVALID_SPAN)

    @abstractmethod
    def run(self, context: Context, row: Row, control: Callable[[], Control]) -> int:
        """Process the row in the forked process; return its exit status (see ``worker.process.monitor``)."""

    @abstractmethod
    def renew_lease(self, session: Session, row: Row, lease_seconds: float) -> Control:
        """Renew the lease and return the requested control. Raises ``LeaseLost``."""

    @abstractmethod
    def record_exit(
        self, session: Session, row: Row, exit_reason: ExitReason, monitor: ProcessMonitor, settings: Settings
    ) -> None:
        """Record the exit of a process that could not record it. Raises ``LeaseLost``."""

    @abstractmethod
    def wake_next(self, context: Context) -> None:
        """Wake a worker if more rows wait. Raises ``DatabaseUnavailable``."""

    def save_log(self, context: Context, row: Row, lines: Sequence[str]) -> None:
        """Save the last log lines of the forked process; by default nowhere. Raises ``DatabaseUnavailable``."""

    def read_control(self, context: Context, row: Row) -> Control:  # noqa: ARG002
        """Return the requested control between two renewals. Raises ``LeaseLost`` or ``DatabaseUnavailable``."""
        return Control.GO

    def make_watchdog(self, context: Context, remaining_seconds: float) -> Watchdog:  # noqa: ARG002
        """Return the limits of the forked process; by default none."""
        return Watchdog()

    def on_claim(self, context: Context, row: Row) -> None:
        """Run once the claim is committed, before the fork."""

    def on_exit(self, context: Context, row: Row) -> None:
        """Run once the exit is recorded."""


class LeaseRenewer(Generic[Row]):
    """Renews the lease of a row every ``heartbeat_seconds``; returns the requested control at every call.

    After a renewal, it saves the last log lines of the process, if there are new ones.
    """

    def __init__(self, workload: Workload[Row], context: Context, row: Row, log_tail: LogTail) -> None:
        self._workload = workload
        self._context = context
        self._row = row
        self._log_tail = log_tail
        self._saved: Sequence[str] = []
        self._renew_at = time.monotonic() + context.settings.heartbeat_seconds

    def __call__(self) -> Control:
        """Renew the lease if it is due. Raises ``LeaseLost`` or ``DatabaseUnavailable``."""
        if time.monotonic() < self._renew_at:
            return self._workload.read_control(self._context, self._row)
        settings = self._context.settings
        with self._context.database.write() as session:
            control = self._workload.renew_lease(session, self._row, settings.lease_seconds)
        self._renew_at = time.monotonic() + settings.heartbeat_seconds
        self._save(self._log_tail.lines())
        return control

    def save_last_lines(self, lines: Sequence[str]) -> None:
        """Save the log lines of the process that has ended."""
        try:
            self._save(lines)
        except DatabaseUnavailable as error:
            log.warning("log.not_saved", error=str(error))

    def _save(self, lines: Sequence[str]) -> None:
        if lines != self._saved:
            self._workload.save_log(self._context, self._row, lines)
            self._saved = lines


def run_next(workload: Workload[Row]) -> bool:
    """Claim the next row and monitor its process until it ends; return False at once if no row waits."""
    context = current_context()
    claimed = _claim(workload, context)
    if claimed is None:
        return False
    row = claimed.row
    fields = structlog.contextvars.bound_contextvars(**workload.log_fields(row), attempt=row.attempt)
    with fields, workload.open_span(context, row) as span:
        log.info(workload.events.claimed)
        workload.on_claim(context, row)
        watchdog = workload.make_watchdog(context, claimed.remaining_seconds)
        renewer = LeaseRenewer(workload, context, row, watchdog.log_tail)
        monitor = ProcessMonitor(renewer, monitor_intervals(context.settings), watchdog)
        context.database.dispose()  # its connections must not cross the fork
        exit_reason = monitor.run(lambda control: workload.run(context.with_new_connections(), row, control))
        renewer.save_last_lines(monitor.log_lines)
        if exit_reason not in {ExitReason.DONE, ExitReason.LEASE_LOST}:
            _record_exit(workload, context, row, exit_reason, monitor)
        # After the record: no process renews the lease now, and deleting a large folder can outlast it.
        shutil.rmtree(context.scratch_dir(row.id, row.attempt), ignore_errors=True)
        log.info(workload.events.exited, exit_reason=exit_reason, control=monitor.requested)
        span.set_attribute("potstill.exit_reason", exit_reason)
        if exit_reason is not ExitReason.DONE:
            tracing.set_error(span, exit_reason)
    workload.on_exit(context, row)
    with suppress(DatabaseUnavailable):  # the scheduler wakes workers when the database is back
        workload.wake_next(context)
    return True


def monitor_intervals(settings: Settings) -> MonitorIntervals:
    """Return the monitor's intervals of these settings."""
    return MonitorIntervals(
        control_poll_seconds=settings.control_poll_seconds,
        outage_seconds=settings.outage_seconds,
        cancel_grace_seconds=settings.cancel_grace_seconds,
    )


def _claim(workload: Workload[Row], context: Context) -> Claimed[Row] | None:
    if DRAIN.get():
        return None  # this worker shuts down; the scheduler wakes another one
    try:
        with context.database.write() as session:
            return workload.claim(session, context)
    except DatabaseUnavailable as error:
        log.warning("claim.failed", error=str(error))  # the scheduler wakes workers again
        return None


def _record_exit(
    workload: Workload[Row], context: Context, row: Row, exit_reason: ExitReason, monitor: ProcessMonitor
) -> None:
    try:
        with context.database.write() as session:
            workload.record_exit(session, row, exit_reason, monitor, context.settings)
    except (LeaseLost, DatabaseUnavailable) as error:
        log.warning(workload.events.exit_not_recorded, error=str(error))  # the lease expires by itself
