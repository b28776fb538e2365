"""Failure causes of a job attempt: an error, a stall, a time limit, or a process that ended without a record."""

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
from core.store import checkpoints, jobs
from core.store.db import Session
from core.store.tables import Job
from core.system.disk import DISK_ERRORS, disk_error_reason
from core.system.parent_death import EXIT_OUT_OF_MEMORY
from worker.process.log_tail import collect_secrets, redact_secrets
from worker.process.monitor import EXIT_TEMPORARY, ProcessMonitor
from worker.process.usage import Usage, machine_info, own_usage

_MAX_MESSAGE_LENGTH = 2_000
_NEAR_LIMIT = 0.9  # of the memory limit: the next allocation may have failed


def from_error(
    error: Exception, settings: Settings, *, out_of_memory: bool, device: Mapping[str, Any] | None = None
) -> FailureCause:
    """Return the cause for an error that the job's process raised. ``out_of_memory``: whether it means that."""
    code, message, fault = _classify(error, out_of_memory=out_of_memory)
    retryable = out_of_memory or _is_retryable(error)
    secrets = collect_secrets(settings, os.environ)
    machine = machine_info(settings.home, own_usage(), limit=settings.job_memory_bytes, device=device)
    return FailureCause(
        code,
        redact_secrets(message, secrets)[:_MAX_MESSAGE_LENGTH],
        fault,
        machine=machine,
        retryable=retryable,
        batch_size=error.extra.get("batch_size") if isinstance(error, OutOfMemory) else None,
        architecture=error.extra.get("architecture") if isinstance(error, PotstillError) else None,
    )


def _is_retryable(error: Exception) -> bool:
    """Whether a retry of the unchanged spec can succeed."""
    match error:
        case RunError():
            return error.retryable
        case InvalidRequest() | NotFound():
            return False
    return True


def _classify(error: Exception, *, out_of_memory: bool) -> tuple[str, str, Fault]:
    if out_of_memory and not isinstance(error, OutOfMemory):
        first_line = str(error).partition("\n")[0]
        return OutOfMemory.code, f"Out of memory: {type(error).__name__}: {first_line}", OutOfMemory.fault
    match error:
        case PotstillError():
            return error.code, error.detail, _fault(error)
        case OSError() if error.errno in DISK_ERRORS:
            return StorageFailed.code, f"This machine's disk failed: {disk_error_reason(error)}.", StorageFailed.fault
    return INTERNAL_ERROR, f"{type(error).__name__}: {error}", "service"


def _fault(error: PotstillError) -> Fault:
    match error:
        case RunError():
            return error.fault
        case InvalidRequest() | NotFound():  # raised by a worker if the spec was not resolved before
            return "spec"
        case Unavailable():
            return "infrastructure"
    return "service"


def from_exit(monitor: ProcessMonitor, settings: Settings) -> FailureCause:
    """Return the cause for a process that ended without a record of its result."""
    last_usage = monitor.watchdog.usage
    machine = machine_info(settings.home, last_usage, limit=settings.job_memory_bytes)
    # The kernel reports the peak at the exit, also if the process ended before the first poll.
    machine["memory_peak_bytes"] = max(machine["memory_peak_bytes"] or 0, monitor.peak_bytes or 0) or None
    code, message, fault = _classify_exit(monitor, last_usage, settings.job_memory_bytes)
    return FailureCause(code, message, fault, monitor.log_lines, machine)


def _classify_exit(monitor: ProcessMonitor, last_usage: Usage | None, limit: int) -> tuple[str, str, Fault]:
    status = monitor.status or 0
    if status == EXIT_OUT_OF_MEMORY:
        message = "The kernel ended one of its processes, as the machine or its control group had no memory left"
        return OutOfMemory.code, message, OutOfMemory.fault
    if status == -signal.SIGKILL and monitor.watchdog.saw_oom_kill():
        message = "The kernel ended its process, as the machine or its control group had no memory left"
        return OutOfMemory.code, message, OutOfMemory.fault
    if limit and last_usage is not None and last_usage.data_bytes > _NEAR_LIMIT * limit:
        message = (
            f"Its process ended {_describe_status(status)} and used {last_usage.data_bytes} bytes "
            f"of its memory limit of {limit} bytes"
        )
        return OutOfMemory.code, message, OutOfMemory.fault
    if status == EXIT_TEMPORARY:
        return WorkerLost.code, "A service that it needs was unavailable", WorkerLost.fault
    return WorkerLost.code, f"Its process ended {_describe_status(status)}", WorkerLost.fault


def _describe_status(status: int) -> str:
    return f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def from_stall(monitor: ProcessMonitor, settings: Settings) -> FailureCause:
    """Return the cause for a process that was killed by the stall timeout."""
    machine = machine_info(settings.home, monitor.watchdog.usage, limit=settings.job_memory_bytes)
    message = f"Its process made no progress for {settings.stall_timeout_seconds:g} s and was killed"
    return FailureCause(WorkStalled.code, message, WorkStalled.fault, monitor.log_lines, machine)


def from_time_limit(
    session: Session, job: Job, settings: Settings, *, log: Sequence[str], usage: Usage | None
) -> FailureCause:
    """Return the cause for a job that reached its time limit."""
    limit = max_seconds(job, settings)
    assert limit is not None, "the time limit was reached, so there is one"
    used = jobs.running_seconds(session, job.id)
    message = f"It has run for {used:.0f} s of its limit of {limit:g} s ({_limit_name(job, settings)})."
    machine = machine_info(settings.home, usage, limit=settings.job_memory_bytes)
    time_budget = TimeBudget(used, limit, settings.max_job_seconds or None)
    return FailureCause(
        TimeLimitReached.code,
        message,
        TimeLimitReached.fault,
        log,
        machine,
        time_budget=time_budget,
        retryable=TimeLimitReached.retryable,
    )


def max_seconds(job: Job, settings: Settings) -> float | None:
    """Return the time limit of a job over all its attempts; None: no limit."""
    limits = [limit for limit in (_spec_max_seconds(job), settings.max_job_seconds) if limit]
    return min(limits, default=None)


def job_error(session: Session, job: Job, cause: FailureCause) -> dict[str, Any]:
    """Return the job's ``error``."""
    return cause.to_error(
        spec=job.spec,
        stage=job.stage,
        fraction=job.progress["fraction"],
        has_checkpoint=checkpoints.has_resumable(session, job.id),
    )


def _spec_max_seconds(job: Job) -> float | None:
    seconds: float | None = job.spec.get("resources", {}).get("max_seconds")
    return seconds


def _limit_name(job: Job, settings: Settings) -> str:
    is_from_spec = max_seconds(job, settings) == _spec_max_seconds(job)
    return "resources.max_seconds" if is_from_spec else "POTSTILL_MAX_JOB_SECONDS"
