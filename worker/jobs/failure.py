"""What ended an attempt, for every way in which one can end: an error, a limit, a death without a word."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import (
    Fault,
    InvalidRequest,
    NotFound,
    OutOfMemory,
    PotstillError,
    RunError,
    StorageFailed,
    TimeLimitReached,
    Unavailable,
    WorkerLost,
    WorkStalled,
)
from core.job_failure import INTERNAL_ERROR, FailureCause, TimeBudget
from core.settings import Settings
from core.store import jobs
from core.store.db import Session
from core.store.tables import Job
from core.system.disk import REFUSALS, why
from core.system.parent_death import NO_MEMORY
from worker.process import usage
from worker.process.log_tail import redacted, secrets_of
from worker.process.monitor import TEMPORARY, ProcessMonitor

_MESSAGE_LENGTH = 2_000
_NEARLY = 0.9  # of a limit on memory: the next allocation may have been refused


def of_error(
    error: Exception, settings: Settings, *, out_of_memory: bool, device: Mapping[str, Any] | None = None
) -> FailureCause:
    """What a job's own process raised. ``out_of_memory``: the error says so, in whatever words."""
    code, message, fault = _kind(error, out_of_memory=out_of_memory)
    secrets = secrets_of(settings, os.environ)
    seen = usage.seen(settings.home, usage.own_usage(), limit=settings.job_memory_bytes, device=device)
    return FailureCause(code, redacted(message, secrets)[:_MESSAGE_LENGTH], fault, machine=seen)


def _kind(error: Exception, *, out_of_memory: bool) -> tuple[str, str, Fault]:
    if out_of_memory and not isinstance(error, OutOfMemory):
        said = str(error).partition("\n")[0]
        return OutOfMemory.code, f"There was not enough memory: {type(error).__name__}: {said}", OutOfMemory.fault
    match error:
        case PotstillError():
            return error.code, error.detail, _fault(error)
        case OSError() if error.errno in REFUSALS:
            return StorageFailed.code, f"This machine's disk failed the job: {why(error)}.", StorageFailed.fault
    return INTERNAL_ERROR, f"{type(error).__name__}: {error}", "service"


def _fault(error: PotstillError) -> Fault:
    match error:
        case RunError():
            return error.fault
        case InvalidRequest() | NotFound():  # found by a worker, where no inspector was there to find it before
            return "spec"
        case Unavailable():
            return "infrastructure"
    return "service"


def of_death(guardian: ProcessMonitor, settings: Settings) -> FailureCause:
    """What is known of work that ended without a word."""
    measured = guardian.watchdog.usage
    seen = usage.seen(settings.home, measured, limit=settings.job_memory_bytes)
    # Its most is told at its end, also of work that ended before anybody looked.
    seen["memory_peak_bytes"] = max(seen["memory_peak_bytes"] or 0, guardian.peak_bytes or 0) or None
    code, message, fault = _death(guardian, measured, settings.job_memory_bytes)
    return FailureCause(code, message, fault, guardian.last_words, seen)


def _death(guardian: ProcessMonitor, measured: usage.Usage | None, limit: int) -> tuple[str, str, Fault]:
    status = guardian.status or 0
    if status == NO_MEMORY:
        message = "The kernel ended one of its processes, as the machine or its control group had no memory left"
        return OutOfMemory.code, message, OutOfMemory.fault
    if status == -signal.SIGKILL and guardian.watchdog.saw_a_kill_for_memory():
        message = "The kernel ended its process, as the machine or its control group had no memory left"
        return OutOfMemory.code, message, OutOfMemory.fault
    if limit and measured is not None and measured.data > _NEARLY * limit:
        message = (
            f"Its process ended {_how(status)} with {measured.data} of the {limit} bytes of memory that it may have"
        )
        return OutOfMemory.code, message, OutOfMemory.fault
    if status == TEMPORARY:
        return WorkerLost.code, "Something that it needs was away", WorkerLost.fault
    return WorkerLost.code, f"Its process ended {_how(status)}", WorkerLost.fault


def _how(status: int) -> str:
    return f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def of_stall(guardian: ProcessMonitor, settings: Settings) -> FailureCause:
    """Of work that was ended as it did nothing."""
    seen = usage.seen(settings.home, guardian.watchdog.usage, limit=settings.job_memory_bytes)
    message = f"Its process did nothing for {settings.stall_timeout_seconds:g} s and was ended"
    return FailureCause(WorkStalled.code, message, WorkStalled.fault, guardian.last_words, seen)


def of_time(
    session: Session, job: Job, settings: Settings, *, log: Sequence[str], measured: usage.Usage | None
) -> FailureCause:
    """Of a job that has run for as long as it may."""
    limit = seconds_allowed(job, settings)
    assert limit is not None, "its time is over, so there is a limit"
    used = jobs.running_seconds(session, job.id)
    whose = _whose(job, settings)
    message = f"It has run for {used:.0f} s and may run for {limit:g} s ({whose}); its last checkpoint is kept."
    seen = usage.seen(settings.home, measured, limit=settings.job_memory_bytes)
    clock = TimeBudget(used, limit, settings.max_job_seconds or None)
    return FailureCause(TimeLimitReached.code, message, TimeLimitReached.fault, log, seen, clock=clock)


def seconds_allowed(job: Job, settings: Settings) -> float | None:
    """For how long a job may run over all its attempts; None: for ever."""
    limits = [limit for limit in (_asked(job), settings.max_job_seconds) if limit]
    return min(limits, default=None)


def error_of(job: Job, cause: FailureCause) -> dict[str, Any]:
    """The job's ``error``."""
    return cause.document(spec=job.spec, stage=job.stage, fraction=job.progress["fraction"])


def _asked(job: Job) -> float | None:
    asked: float | None = job.spec.get("resources", {}).get("max_seconds")
    return asked


def _whose(job: Job, settings: Settings) -> str:
    return "resources.max_seconds" if seconds_allowed(job, settings) == _asked(job) else "POTSTILL_MAX_JOB_SECONDS"
