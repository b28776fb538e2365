"""One attempt at a job, in a process of its own: inputs here, the engine, its product published.

Imported by a job worker's pool process before any job comes; it runs no tensor operation by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import torch

from core import pipeline
from core.errors import KilledForMemory, Unavailable
from core.methods import implementation
from core.reporting import Control, Interrupted
from core.resolve import resolver
from core.spec import JobSpec, parse_job_spec
from core.spec.methods import METHODS
from core.store import jobs
from core.store.db import Session
from core.store.job_leases import LeaseLost, LeaseToken
from core.store.tables import Job
from core.system.fault_injection import fault_point
from core.system.parent_death import NO_MEMORY
from core.train.environment import is_out_of_memory
from worker.context import Context
from worker.jobs import failure
from worker.jobs.inputs import Inputs
from worker.jobs.publish import publish
from worker.jobs.reporter import JobReporter
from worker.process import forked, usage, watchdog
from worker.process.monitor import DONE, LEASE_LOST, TEMPORARY

log = structlog.get_logger(__name__)


def warm_up() -> None:
    """Import the methods too. No operation: it would start OpenMP's threads, which a fork does not take along."""
    for name in METHODS:
        implementation(name)


def run_job(context: Context, job: Job, control: Callable[[], Control]) -> int:
    """Run the attempt that ``job`` was claimed for; its exit status, 0 where the database says how it ended."""
    attempt = LeaseToken.of(job)
    scratch = context.scratch(job.id, job.attempt)
    reporter = JobReporter(context, job, scratch, control)
    try:
        try:
            _run(context, job, scratch, reporter)
        except Interrupted as interrupted:
            _leave(context, reporter, attempt, interrupted.control)
        except LeaseLost:
            raise
        except Unavailable as error:
            log.exception("job.interrupted")
            return NO_MEMORY if isinstance(error, KilledForMemory) else TEMPORARY
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits to be told
            _fail(context, reporter, attempt, error)
    except LeaseLost as lost:
        log.warning("job.lease_lost", error=str(lost))
        return LEASE_LOST
    shutil.rmtree(scratch, ignore_errors=True)
    return DONE


def _run(context: Context, job: Job, scratch: Path, reporter: JobReporter) -> None:
    attempt = LeaseToken.of(job)
    for earlier in range(1, job.attempt + 1):  # what counts of a lost attempt is in the store
        shutil.rmtree(context.scratch(job.id, earlier), ignore_errors=True)
    scratch.mkdir(mode=0o700, parents=True)
    fault_point("attempt.begun")
    spec = parse_job_spec(job.spec)
    with context.inputs:
        inputs = Inputs.gather(context, job, spec, scratch, reporter.poll)
        fault_point("inputs.gathered")
        spec = _resolved(context, job, spec, inputs, reporter)
        workspace = inputs.workspace(context, scratch)
        result = pipeline.run(spec, workspace, reporter)
        reporter.flush()
        publish(context, job, spec, result, reporter)
    log.info("job.succeeded", attempt=attempt.attempt)


def _resolved(context: Context, job: Job, spec: JobSpec, inputs: Inputs, reporter: JobReporter) -> JobSpec:
    """The spec with every default filled in; done here where no inspector was there to do it."""
    if job.resolved:
        return spec
    resolution = resolver.resolve(
        spec,
        inputs.dataset_facts(),
        inputs.model_facts(),
        datasets=inputs.other_facts(),
        threads=context.settings.job_threads,
    )
    document = resolution.spec.model_dump(mode="json")
    total_steps = resolution.estimate["total_steps"]
    reporter.write(lambda session: jobs.set_spec(session, LeaseToken.of(job), document, total_steps=total_steps))
    return resolution.spec


def _leave(context: Context, reporter: JobReporter, attempt: LeaseToken, control: Control) -> None:
    """Give the job back where somebody asked for it; its newest checkpoint is stored."""
    reporter.flush()
    if control is Control.DRAIN and watchdog.current().time_is_over():
        reporter.write(lambda session: _fail_by_time(session, attempt, context))
        return
    leave: Mapping[Control, Callable[[Session, LeaseToken], Any]] = {
        Control.CANCEL: jobs.cancelled,
        Control.PAUSE: jobs.paused,
        Control.DRAIN: jobs.release,
    }
    reporter.write(lambda session: leave[control](session, attempt))
    log.info("job.interrupted", control=control)


def _fail_by_time(session: Session, attempt: LeaseToken, context: Context) -> None:
    job = jobs.current(session, attempt)
    lines, measured = watchdog.current().log_tail.lines(), usage.own_usage()
    cause = failure.of_time(session, job, context.settings, log=lines, measured=measured)
    jobs.fail(session, attempt, failure.error_of(job, cause))


def _fail(context: Context, reporter: JobReporter, attempt: LeaseToken, error: Exception) -> None:
    forked.lift_memory_limit()  # what it was there for has happened, and this still has to be said
    found = failure.of_error(error, context.settings, out_of_memory=is_out_of_memory(error), device=_device())
    log.error("job.failed", code=found.code, exc_info=error)
    cause = replace(found, log=watchdog.current().log_tail.lines())
    reporter.flush()
    reporter.write(lambda session: jobs.fail(session, attempt, failure.error_of(jobs.current(session, attempt), cause)))


def _device() -> dict[str, Any] | None:
    """What is seen of the accelerator's memory by a process that has used it."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    free, total = torch.cuda.mem_get_info()
    return {
        "name": torch.cuda.get_device_name(),
        "memory_bytes": torch.cuda.memory_reserved(),
        "memory_peak_bytes": torch.cuda.max_memory_reserved(),
        "memory_free_bytes": free,
        "memory_total_bytes": total,
    }
