"""Runs tasks on other services in threads of the scheduler: pushes to a hub, and the runs of a tracking server.

Each thread claims one task at a time under a lease, which the attempt renews. Several schedulers may run tasks at
once. An attempt whose end was not recorded is repeated after its lease, with the state that it has saved.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog
from sqlalchemy.orm import Session

from core.errors import PotstillError
from core.outbound_errors import OutboundFailed
from core.redaction import redact
from core.store import outbound, pushes
from core.store.db import Database, DatabaseUnavailable, utc_now
from core.store.outbound import ClaimedTask, Kind, TaskLost
from core.store.outbound_tables import OutboundTask
from core.store.tables import Job
from worker.scheduler.due_threads import DueThreads

MAX_THREADS = 4
LEASE_SECONDS = 60.0
RENEW_SECONDS = 10.0
_MAX_MESSAGE_CHARACTERS = 500

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of an attempt: the task's result, or None to continue after ``again_seconds``."""

    result: Mapping[str, Any] | None = None
    again_seconds: float = 0.0


@dataclass(slots=True)
class Attempt:
    """One attempt at a task. Its methods raise :class:`TaskLost` if another process has the task."""

    database: Database
    task: ClaimedTask
    clock: Callable[[Session], datetime] = utc_now

    def save(self, state: Mapping[str, Any] | None, in_transaction: Callable[[Session], object] | None = None) -> None:
        """Save the state of the task, and run ``in_transaction`` in the same transaction with its job locked."""
        with self.database.write() as session:
            if in_transaction is not None:
                outbound.lock_held(session, self.task)
                in_transaction(session)
            outbound.save(session, self.task, self.clock(session), state=state, lease_seconds=LEASE_SECONDS)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease in a thread while the block runs, until it is lost."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW_SECONDS):
                try:
                    self.save(None)
                except TaskLost:
                    return  # the next save of the attempt, or its record, raises it too
                except DatabaseUnavailable as error:
                    log.warning("outbound.not_renewed", task_id=self.task.id, error=str(error))

        thread = threading.Thread(target=renew, name="outbound-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class TaskHandler(Protocol):
    """Runs the tasks of one kind. ``max_seconds``: a task that is older fails at its next failed attempt."""

    max_seconds: float | None

    def run(self, attempt: Attempt) -> Outcome:
        """Run one attempt. Raises :class:`OutboundFailed`, :class:`TaskLost`, ``StorageFailed``."""


class OutboundRunner:
    """Runs the due tasks of all projects. Tests replace ``clock``."""

    def __init__(
        self,
        database: Database,
        handlers: Mapping[Kind, TaskHandler],
        *,
        clock: Callable[[Session], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._handlers = handlers
        self._clock = clock
        self._threads = DueThreads("outbound", MAX_THREADS, self.run_next)

    def start_due(self) -> None:
        """Start a thread for each due task, up to ``MAX_THREADS`` in all. Raises ``DatabaseUnavailable``."""
        with self._database.read() as session:
            num_due = outbound.count_due(session, self._clock(session), self._handlers.keys(), limit=MAX_THREADS)
        self._threads.start(num_due)

    def run_next(self) -> bool:
        """Claim, run and record one attempt; return whether there was a task. Raises ``DatabaseUnavailable``."""
        with self._database.write() as session:
            task = outbound.claim(session, self._clock(session), self._handlers.keys(), lease_seconds=LEASE_SECONDS)
        if task is None:
            return False
        try:
            outcome = self._run(task)
            self._record(task, outcome)
        except TaskLost:
            log.warning("outbound.lost", kind=task.kind, task_id=task.id, job_id=task.job_id)
        return True

    def close(self, seconds: float) -> None:
        """Claim no more tasks, and wait for those that run for at most ``seconds``; a later attempt ends the rest."""
        self._threads.close(seconds)

    def _run(self, task: ClaimedTask) -> Outcome | PotstillError:
        """Run the attempt; return its outcome, or the error that ended it."""
        attempt = Attempt(self._database, task, self._clock)
        try:
            with attempt.renewed():
                return self._handlers[task.kind].run(attempt)
        except (TaskLost, DatabaseUnavailable):
            raise
        except PotstillError as error:
            return error
        except Exception:
            log.exception("outbound.attempt_failed", kind=task.kind, task_id=task.id, job_id=task.job_id)
            return OutboundFailed("An internal error occurred; the scheduler has logged it.")

    def _record(self, task: ClaimedTask, outcome: Outcome | PotstillError) -> None:
        with self._database.write() as session:
            job, row = outbound.lock_held(session, task)
            now = self._clock(session)
            if isinstance(outcome, PotstillError):
                self._record_failure(session, job, row, outcome, now)
            elif outcome.result is None or not outbound.is_unchanged(row, task):
                seconds = outcome.again_seconds if outbound.is_unchanged(row, task) else 0.0
                outbound.reschedule(session, row, now + timedelta(seconds=seconds))
            else:
                outbound.finish(session, row, now, result=outcome.result)
                self._record_end(session, job, row)
        if isinstance(outcome, PotstillError):
            log.warning(
                "outbound.failed",
                kind=task.kind,
                task_id=task.id,
                job_id=task.job_id,
                code=outcome.code,
                error=redact(outcome.detail),
                status=row.status,
            )

    def _record_failure(
        self, session: Session, job: Job, row: OutboundTask, error: PotstillError, now: datetime
    ) -> None:
        fields = {"code": error.code, "message": redact(error.detail)[:_MAX_MESSAGE_CHARACTERS]}
        max_seconds = self._handlers[row.kind].max_seconds  # type: ignore[index]  # the table's check
        is_final = isinstance(error, OutboundFailed) and not error.retryable
        if is_final or (max_seconds is not None and now - row.created_at >= timedelta(seconds=max_seconds)):
            outbound.finish(session, row, now, error=fields)
            self._record_end(session, job, row)
        else:
            outbound.retry_later(session, row, fields, now)

    @staticmethod
    def _record_end(session: Session, job: Job, row: OutboundTask) -> None:
        if row.kind == "push":
            pushes.record_end(session, job, row)
