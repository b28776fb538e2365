"""A job worker's part: claim a job, watch over its process, see to what it leaves behind."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable

import structlog

from core.reporting import Control
from core.settings import Settings
from core.store import jobs, workers
from core.store.db import DatabaseUnavailable, Session
from core.store.job_leases import LeaseLost, LeaseToken
from core.store.tables import Job
from core.system.fault_injection import fault_point
from worker.context import Context, current
from worker.jobs import failure
from worker.process.forked import limit_memory
from worker.process.log_tail import secrets_of
from worker.process.monitor import ExitReason, MonitorIntervals, ProcessMonitor
from worker.process.shared_flags import DRAIN
from worker.process.watchdog import Watchdog

log = structlog.get_logger(__name__)


def run_next() -> None:
    """Claim the best queued job and stay with it to its end; nothing where none waits."""
    context = current()
    job, left_seconds = _claim(context)
    if job is None:
        return
    attempt = LeaseToken.of(job)
    with structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt):
        log.info("job.claimed")
        fault_point("claim.committed")
        context.hints.publish_job_change(job.id)
        guardian = ProcessMonitor(_Beat(context, attempt), _rhythm(context), _watchdog(context, left_seconds))
        context.database.dispose()  # its connections must not cross the fork
        ending = guardian.run(lambda control: _work(context.in_this_process(), job, control))
        _see_to(context, attempt, ending, guardian)
        log.info("job.left", ending=ending, asked=guardian.asked)
    context.hints.publish_job_change(job.id)
    _look_for_more(context)


def _work(context: Context, job: Job, control: Callable[[], Control]) -> int:
    if context.settings.job_memory_bytes:
        limit_memory(context.settings.job_memory_bytes)
    from worker.jobs.child import run_job  # torch: imported by the pool's process when it started (worker.app.PRELOAD)

    return run_job(context, job, control)


def _claim(context: Context) -> tuple[Job | None, float]:
    """The job that is to be run, and for how many seconds it still may."""
    if DRAIN.get():
        return None, math.inf  # this worker is asked to end; the scheduler tells another one
    try:
        with context.database.write() as session:
            job = jobs.claim(
                session,
                worker_id=context.worker_id,
                accelerator=context.accelerator,
                lease_seconds=context.settings.lease_seconds,
            )
            if job is None:
                return None, math.inf
            workers.record_heartbeat(session, context.worker_id, job_id=job.id)
            limit = failure.seconds_allowed(job, context.settings)
            return job, math.inf if limit is None else limit - jobs.running_seconds(session, job.id)
    except DatabaseUnavailable as error:
        log.warning("claim.failed", error=str(error))  # the scheduler says "look" again
        return None, math.inf


def _watchdog(context: Context, left_seconds: float) -> Watchdog:
    settings = context.settings
    return Watchdog(
        stall_seconds=settings.stall_timeout_seconds or math.inf,
        left_seconds=left_seconds,
        secrets=secrets_of(settings, os.environ),
    )


class _Beat:
    """Reads what was asked at every call, and renews the lease when its time has come."""

    def __init__(self, context: Context, attempt: LeaseToken) -> None:
        self._context = context
        self._attempt = attempt
        self._next_beat = time.monotonic() + context.settings.heartbeat_seconds

    def __call__(self) -> Control:
        settings, database = self._context.settings, self._context.database
        if time.monotonic() >= self._next_beat:
            with database.write() as session:
                flags = jobs.renew_lease(session, self._attempt, settings.lease_seconds)
            self._next_beat = time.monotonic() + settings.heartbeat_seconds
        else:
            with database.read() as session:
                flags = jobs.flags(session, self._attempt)
        if flags.cancel:
            return Control.CANCEL
        if flags.pause:
            return Control.PAUSE
        return Control.STOP if flags.stop else Control.GO


def _rhythm(context: Context) -> MonitorIntervals:
    settings = context.settings
    return MonitorIntervals(
        beat=settings.control_poll_seconds, outage=settings.outage_seconds, force_cancel=settings.cancel_grace_seconds
    )


def _see_to(context: Context, attempt: LeaseToken, ending: ExitReason, guardian: ProcessMonitor) -> None:
    """Write down how the attempt ended, where its process could not."""
    if ending is ExitReason.DONE:
        return
    if ending is not ExitReason.LEASE_LOST:
        _write(context, lambda session: _record_exit(session, attempt, ending, guardian, context.settings))
    # After that: nobody renews the lease any more, and a large folder can take longer than what is left of it.
    shutil.rmtree(context.scratch(attempt.job_id, attempt.attempt), ignore_errors=True)


def _record_exit(
    session: Session, attempt: LeaseToken, ending: ExitReason, guardian: ProcessMonitor, settings: Settings
) -> None:
    if ending is ExitReason.FORCED and guardian.asked is Control.CANCEL:
        jobs.cancelled(session, attempt)
    elif ending is ExitReason.FORCED and guardian.watchdog.time_is_over():
        job = jobs.current(session, attempt)
        cause = failure.of_time(session, job, settings, log=guardian.last_words, measured=guardian.watchdog.usage)
        jobs.fail(session, attempt, failure.error_of(job, cause))
    elif ending is ExitReason.FORCED:
        jobs.release(session, attempt)
    elif ending is ExitReason.STALLED:
        jobs.record_loss(session, attempt, failure.of_stall(guardian, settings), settings.max_losses)
    else:
        jobs.record_loss(session, attempt, failure.of_death(guardian, settings), settings.max_losses)


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
            workers.record_heartbeat(session, context.worker_id)
            waiting = jobs.waiting(session)
    except DatabaseUnavailable:
        return  # the scheduler says it when the database is back
    if waiting & {"auto", context.accelerator}:
        context.hints.wake_job_workers(context.accelerator)
