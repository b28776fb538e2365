"""The forked process of a job attempt: fetch the inputs, run the engine, publish the artifacts.

A job worker's pool process imports this module before the first job. The import runs no tensor operation.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import torch

from core import pipeline, tracing
from core.compress import implementation as step_implementation
from core.errors import InvalidSpec, KilledForMemory, Unavailable
from core.job_warnings import JobWarning
from core.methods import implementation
from core.reporting import Control, Interrupted
from core.resolve import resolver
from core.spec import JobSpec, parse_job_spec
from core.spec.compression import COMPRESSION_STEPS
from core.spec.methods import METHODS
from core.store import jobs
from core.store.db import Session
from core.store.job_leases import LeaseLost, LeaseToken
from core.store.tables import Job
from core.system.fault_injection import fault_point
from core.system.memory import total_memory
from core.system.parent_death import EXIT_OUT_OF_MEMORY
from core.system.processor_time import ProcessorTimeExceeded, limit_processor_time
from core.train.environment import is_out_of_memory
from worker.context import Context
from worker.jobs import failure
from worker.jobs.inputs import Inputs
from worker.jobs.memory import out_of_memory
from worker.jobs.publish import publish
from worker.jobs.reporter import JobReporter
from worker.process import forked, watchdog
from worker.process.monitor import EXIT_DONE, EXIT_LEASE_LOST, EXIT_TEMPORARY
from worker.process.usage import own_usage

_RESOLVE_SECONDS = 60.0  # of processor time; the inspector answers within seconds

log = structlog.get_logger(__name__)


def warm_up() -> None:
    """Import methods and compression steps.

    Run no tensor operation: it would start OpenMP threads, which do not survive a fork.
    """
    for name in METHODS:
        implementation(name)
    for name in COMPRESSION_STEPS:
        step_implementation(name)


def run_job(context: Context, job: Job, control: Callable[[], Control]) -> int:
    """Run one attempt of a claimed job; return the exit status (``EXIT_DONE``: the database holds the result)."""
    lease = LeaseToken.from_job(job)
    scratch = context.scratch_dir(job.id, job.attempt)
    reporter = JobReporter(context, job, scratch, control)
    tracing.export_in_background()
    try:
        try:
            _run(context, job, scratch, reporter)
        except Interrupted as interrupted:
            reporter.end_stage_span()
            _release(context, reporter, lease, interrupted.control)
        except LeaseLost:
            raise
        except Unavailable as error:
            log.exception("job.interrupted")
            return EXIT_OUT_OF_MEMORY if isinstance(error, KilledForMemory) else EXIT_TEMPORARY
        except Exception as error:  # noqa: BLE001 - the job's error reports it
            _fail(context, reporter, lease, error)
    except LeaseLost as lost:
        log.warning("job.lease_lost", error=str(lost))
        return EXIT_LEASE_LOST
    finally:
        reporter.end_stage_span("the attempt ended in this stage")
        tracing.flush()
    shutil.rmtree(scratch, ignore_errors=True)
    return EXIT_DONE


def _run(context: Context, job: Job, scratch: Path, reporter: JobReporter) -> None:
    for earlier in range(1, job.attempt + 1):  # the store holds their checkpoints
        shutil.rmtree(context.scratch_dir(job.id, earlier), ignore_errors=True)
    scratch.mkdir(mode=0o700, parents=True)
    fault_point("attempt.begun")
    spec = parse_job_spec(job.spec)
    with context.input_cache:
        inputs = Inputs.fetch(context, job, spec, scratch, reporter.poll)
        fault_point("inputs.gathered")
        spec = _resolve(context, job, spec, inputs, reporter)
        workspace = inputs.workspace(context, scratch)
        try:
            result = pipeline.run(spec, workspace, reporter)
        except Exception as error:
            if is_out_of_memory(error):
                forked.remove_memory_limit()  # the estimate needs memory too
                raise out_of_memory(error, spec, inputs, limit_bytes=_memory_bytes(context)) from error
            raise
        reporter.flush()
        publish(context, job, spec, result, reporter)
    log.info("job.succeeded")


def _resolve(context: Context, job: Job, spec: JobSpec, inputs: Inputs, reporter: JobReporter) -> JobSpec:
    """Fill in the defaults of the spec, unless the inspector resolved it before."""
    if job.resolved:
        return spec
    try:
        with limit_processor_time(_RESOLVE_SECONDS):
            resolution = resolver.resolve(
                spec,
                inputs.dataset_info(),
                inputs.model_info(),
                datasets=inputs.other_dataset_info(),
                threads=context.settings.job_threads,
                memory_bytes=context.settings.job_memory_bytes or None,
            )
    except ProcessorTimeExceeded:
        raise InvalidSpec("A model of this spec takes too long to build; make it smaller.") from None
    document = resolution.spec.model_dump(mode="json")
    total_steps = resolution.estimate["total_steps"]
    lease = LeaseToken.from_job(job)
    warnings = [JobWarning.model_validate(entry) for entry in resolution.estimate["warnings"]]
    reporter.write(lambda session: jobs.set_spec(session, lease, document, total_steps=total_steps, warnings=warnings))
    return resolution.spec


def _release(context: Context, reporter: JobReporter, lease: LeaseToken, control: Control) -> None:
    """Cancel, pause or requeue the job, or fail it at its time limit. Its last checkpoint is stored."""
    reporter.flush()
    if control is Control.DRAIN and watchdog.current_watchdog().is_time_over():
        reporter.write(lambda session: _fail_at_time_limit(session, lease, context))
        return
    actions: Mapping[Control, Callable[[Session, LeaseToken], Any]] = {
        Control.CANCEL: jobs.release_cancelled,
        Control.PAUSE: jobs.release_paused,
        Control.DRAIN: jobs.release,
    }
    reporter.write(lambda session: actions[control](session, lease))
    log.info("job.interrupted", control=control)


def _fail_at_time_limit(session: Session, lease: LeaseToken, context: Context) -> None:
    job = jobs.get_leased(session, lease)
    lines = watchdog.current_watchdog().log_tail.lines()
    cause = failure.from_time_limit(session, job, context.settings, log=lines, usage=own_usage())
    jobs.fail(session, lease, failure.job_error(session, job, cause))


def _fail(context: Context, reporter: JobReporter, lease: LeaseToken, error: Exception) -> None:
    forked.remove_memory_limit()  # the error report needs memory too
    cause = failure.from_error(error, context.settings, out_of_memory=is_out_of_memory(error), device=_device())
    log.error("job.failed", code=cause.code, exc_info=error)
    cause = replace(cause, log=watchdog.current_watchdog().log_tail.lines())
    reporter.flush()

    def record(session: Session) -> Job:
        job = jobs.get_leased(session, lease)
        return jobs.fail(session, lease, failure.job_error(session, job, cause))

    reporter.write(record)


def _memory_bytes(context: Context) -> int | None:
    """Return the memory that the job could use: that of its device, or its limit; None if unknown."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return int(torch.cuda.mem_get_info()[1])
    return context.settings.job_memory_bytes or total_memory()


def _device() -> dict[str, Any] | None:
    """Return the accelerator's memory usage; None if this process has not used an accelerator."""
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
