"""One attempt at a job, in a process of its own: inputs here, the engine, its product published.

Imported by a job worker's pool process before any job comes; it runs no tensor operation by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
import torch

from core import inspection, pipeline
from core.disk import REFUSALS, why
from core.errors import PotstillError, StorageFailed, Unavailable
from core.faultpoints import passing
from core.methods import implementation
from core.reporting import Control, Interrupted
from core.spec import JobSpec, parse_job_spec
from core.spec.methods import METHODS
from core.store import jobs
from core.store.db import Session
from core.store.leases import Attempt, LeaseLost
from core.store.tables import Job
from worker.context import Context
from worker.inputs import Inputs
from worker.publish import publish
from worker.reporter import JobReporter

DONE = 0
LEASE_LOST = 3
TEMPORARY = 75  # something that we need is away: another attempt may go well (EX_TEMPFAIL)
_MESSAGE_LENGTH = 2_000

log = structlog.get_logger(__name__)


def warm_up() -> None:
    """Import the methods too. No operation: it would start OpenMP's threads, which a fork does not take along."""
    for name in METHODS:
        implementation(name)


def run_job(context: Context, job: Job, control: Callable[[], Control]) -> int:
    """Run the attempt that ``job`` was claimed for; its exit status, 0 where the database says how it ended."""
    attempt = Attempt.of(job)
    scratch = context.scratch(job.id, job.attempt)
    reporter = JobReporter(context, job, scratch, control)
    try:
        try:
            _run(context, job, scratch, reporter)
        except Interrupted as interrupted:
            _leave(reporter, attempt, interrupted.control)
        except LeaseLost:
            raise
        except Unavailable:
            log.exception("job.interrupted")
            return TEMPORARY
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits to be told
            _fail(reporter, attempt, error)
    except LeaseLost as lost:
        log.warning("job.lease_lost", error=str(lost))
        return LEASE_LOST
    shutil.rmtree(scratch, ignore_errors=True)
    return DONE


def _run(context: Context, job: Job, scratch: Path, reporter: JobReporter) -> None:
    attempt = Attempt.of(job)
    for earlier in range(1, job.attempt + 1):  # what counts of a lost attempt is in the store
        shutil.rmtree(context.scratch(job.id, earlier), ignore_errors=True)
    scratch.mkdir(mode=0o700, parents=True)
    passing("attempt.begun")
    spec = parse_job_spec(job.spec)
    inputs = Inputs.gather(context, job, spec, scratch)
    passing("inputs.gathered")
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
    resolution = inspection.resolve(
        spec,
        inputs.dataset_facts(),
        inputs.model_facts(),
        datasets=inputs.other_facts(),
        threads=context.settings.job_threads,
    )
    document = resolution.spec.model_dump(mode="json")
    total_steps = resolution.estimate["total_steps"]
    reporter.write(lambda session: jobs.set_spec(session, Attempt.of(job), document, total_steps=total_steps))
    return resolution.spec


def _leave(reporter: JobReporter, attempt: Attempt, control: Control) -> None:
    """Give the job back where somebody asked for it; its newest checkpoint is stored."""
    reporter.flush()
    leave: Mapping[Control, Callable[[Session, Attempt], Any]] = {
        Control.CANCEL: jobs.cancelled,
        Control.PAUSE: jobs.paused,
        Control.DRAIN: jobs.hand_back,
    }
    reporter.write(lambda session: leave[control](session, attempt))
    log.info("job.interrupted", control=control)


def _fail(reporter: JobReporter, attempt: Attempt, error: Exception) -> None:
    document = describe(error)
    log.error("job.failed", code=document["code"], exc_info=error)
    reporter.flush()
    reporter.write(lambda session: jobs.fail(session, attempt, document))


def describe(error: Exception) -> dict[str, str]:
    """What ended a job, as its ``error`` says it."""
    match error:
        case PotstillError():
            code, message = error.code, error.detail
        case torch.OutOfMemoryError() | MemoryError():
            code, message = "out_of_memory", "There was not enough memory; a smaller batch or model needs less."
        case OSError() if error.errno in REFUSALS:
            code, message = StorageFailed.code, f"This machine's disk failed the job: {why(error)}."
        case _:
            code, message = "internal_error", f"{type(error).__name__}: {error}"
    return {"code": code, "message": message[:_MESSAGE_LENGTH]}
