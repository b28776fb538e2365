"""A job worker's part: claim a job, watch over its process, see to what it leaves behind."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import structlog

from core.faultpoints import passing
from core.reporting import Control
from core.store import jobs, workers
from core.store.db import DatabaseUnavailable, Session
from core.store.leases import Attempt, LeaseLost
from core.store.tables import Job
from worker.context import Context, current
from worker.flags import DRAIN
from worker.guardian import Ending, Guardian, Rhythm

log = structlog.get_logger(__name__)


def run_next() -> None:
    """Claim the best queued job and stay with it to its end; nothing where none waits."""
    context = current()
    job = _claim(context)
    if job is None:
        return
    attempt = Attempt.of(job)
    with structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt):
        log.info("job.claimed")
        passing("claim.committed")
        context.hints.changed(job.id)
        guardian = Guardian(_Beat(context, attempt), _rhythm(context))
        context.database.dispose()  # its connections must not cross the fork
        ending = guardian.run(lambda control: _work(context.in_this_process(), job, control))
        _see_to(context, attempt, ending, guardian.asked)
        log.info("job.left", ending=ending, asked=guardian.asked)
    context.hints.changed(job.id)
    _look_for_more(context)


def _work(context: Context, job: Job, control: Callable[[], Control]) -> int:
    from worker.runner import run_job  # torch: imported by the pool's process when it started (worker.app.PRELOAD)

    return run_job(context, job, control)


def _claim(context: Context) -> Job | None:
    if DRAIN.get():
        return None  # this worker is asked to end; the scheduler tells another one
    try:
        with context.database.write() as session:
            job = jobs.claim(
                session,
                worker_id=context.worker_id,
                accelerator=context.accelerator,
                lease_seconds=context.settings.lease_seconds,
            )
            if job is not None:
                workers.beat(session, context.worker_id, job_id=job.id)
            return job
    except DatabaseUnavailable as error:
        log.warning("claim.failed", error=str(error))  # the scheduler says "look" again
        return None


class _Beat:
    """Reads what was asked at every call, and renews the lease when its time has come."""

    def __init__(self, context: Context, attempt: Attempt) -> None:
        self._context = context
        self._attempt = attempt
        self._next_beat = time.monotonic() + context.settings.heartbeat_seconds

    def __call__(self) -> Control:
        settings, database = self._context.settings, self._context.database
        if time.monotonic() >= self._next_beat:
            with database.write() as session:
                flags = jobs.beat(session, self._attempt, settings.lease_seconds)
            self._next_beat = time.monotonic() + settings.heartbeat_seconds
        else:
            with database.read() as session:
                flags = jobs.flags(session, self._attempt)
        if flags.cancel:
            return Control.CANCEL
        if flags.pause:
            return Control.PAUSE
        return Control.STOP if flags.stop else Control.GO


def _rhythm(context: Context) -> Rhythm:
    settings = context.settings
    return Rhythm(
        beat=settings.control_seconds, outage=settings.outage_seconds, force_cancel=settings.force_cancel_seconds
    )


def _see_to(context: Context, attempt: Attempt, ending: Ending, asked: Control) -> None:
    """Write down how the attempt ended, where its process could not."""
    if ending is Ending.DONE:
        return
    shutil.rmtree(context.scratch(attempt.job_id, attempt.attempt), ignore_errors=True)
    if ending is Ending.LEASE_LOST:
        return
    if ending is Ending.FORCED:
        leave = jobs.cancelled if asked is Control.CANCEL else jobs.hand_back
        _write(context, lambda session: leave(session, attempt))
    else:
        max_losses = context.settings.max_losses
        _write(context, lambda session: jobs.lose(session, attempt, max_losses))


def _write(context: Context, work: Callable[[Session], object]) -> None:
    try:
        with context.database.write() as session:
            work(session)
    except (LeaseLost, DatabaseUnavailable) as error:
        log.warning("job.not_left", error=str(error))  # the lease runs out by itself


def _look_for_more(context: Context) -> None:
    """This worker is free now: say so, and say "look" once more where jobs wait."""
    try:
        with context.database.write() as session:
            workers.beat(session, context.worker_id)
            waiting = jobs.waiting(session)
    except DatabaseUnavailable:
        return  # the scheduler says it when the database is back
    if waiting & {"auto", context.accelerator}:
        context.hints.look_for_jobs(context.accelerator)
