"""``/v1/sweeps``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Request, Response

from api.deps import After, AppState, Limit, Reader, State, Writer
from api.idempotency import IdempotencyKey, create_responses, idempotent_create
from api.jobs import service as jobs
from api.jobs.reuse import EarlierJobs
from api.problems import problems
from api.rate_limit import rate_class
from api.request_body import json_body, no_body, read_json, validate_as
from api.schemas import Page
from api.sweeps import service
from api.sweeps.estimate import JobEstimate, estimate_sweep
from api.sweeps.preparation import PreparedJob, in_claim_order, prepare_jobs, sweep_request
from api.sweeps.schemas import EXAMPLE, SweepCreate, SweepEstimateOut, SweepOut, SweepSummaryOut
from core.errors import (
    AmbiguousReference,
    InvalidSpec,
    MalformedRequest,
    NotAvailable,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    UnsupportedMedia,
)
from core.store import audit, sweeps
from core.store.db import Session

router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"])

MAX_WAKES = 8  # of workers at the creation; the scheduler wakes more
_SPEC_ERRORS = (InvalidSpec, NotAvailable, AmbiguousReference, MalformedRequest, PayloadTooLarge, UnsupportedMedia)


@router.post(
    "",
    status_code=201,
    response_model=SweepOut,
    responses=create_responses(*_SPEC_ERRORS, QuotaExceeded, status=201),
)
@rate_class("jobs")
@json_body(SweepCreate, example=EXAMPLE)
async def create_sweep(
    caller: Writer, key: IdempotencyKey, request: Request, state: State, background: BackgroundTasks
) -> Response:
    """Create a sweep: a job for each combination of the values of a grid.

    All jobs are checked like single ones before any is created; an error names the job and the field of the request.
    They are then created together, or none of them. Combinations with the same spec are refused.
    """
    body = validate_as(SweepCreate, await read_json(request))
    created: list[PreparedJob] = []

    async def prepare() -> Callable[[Session], SweepOut]:
        prepared = await prepare_jobs(state, caller.project_id, body)
        created.extend(prepared)

        def make(session: Session) -> SweepOut:
            return service.to_sweep_out(session, service.create(session, caller, body, prepared, state.settings))

        return make

    background.add_task(_wake, state, created)
    identity = ["POST /v1/sweeps", sweep_request(body)]
    return await idempotent_create(state, caller, key, request=identity, prepare=prepare, status=201)


@router.post("/estimate", response_model=SweepEstimateOut, responses=problems(*_SPEC_ERRORS))
@rate_class("questions")
@json_body(SweepCreate, example=EXAMPLE)
async def estimate_sweep_jobs(caller: Reader, request: Request, state: State) -> SweepEstimateOut:
    """Estimate the cost of a sweep, without creating its jobs."""
    body = validate_as(SweepCreate, await read_json(request))
    prepared = in_claim_order(await prepare_jobs(state, caller.project_id, body))
    earlier = EarlierJobs(state.database, caller.project_id)
    found: list[JobEstimate] = []
    for each in prepared:
        resolution = each.resolution
        if resolution is None:  # the call reports why
            payload = jobs.resolve_payload(each.spec, each.inputs, threads=state.settings.job_threads)
            resolution = await state.inspector.call("resolve", payload)
        estimate = jobs.add_input_warnings(resolution["estimate"], each.inputs)
        estimate = await to_thread.run_sync(earlier.add_reuse, resolution["spec"], estimate)
        found.append(service.job_estimate(each, estimate, resolution["spec"]))
    return estimate_sweep(found, list(prepared[0].point.values))


@router.get("", response_model=Page[SweepSummaryOut], responses=problems())
@rate_class("reads")
def list_sweeps(caller: Reader, state: State, limit: Limit = 20, after: After = None) -> Page[SweepSummaryOut]:
    """List sweeps, newest first, without their jobs."""
    with state.database.read() as session:
        page = sweeps.list_sweeps(session, caller.project_id, limit=limit, after=after)
        return Page(data=service.to_summaries(session, page.items), has_more=page.has_more)


@router.get("/{sweep_id}", response_model=SweepOut, responses=problems(NotFound))
@rate_class("reads")
def get_sweep(sweep_id: str, caller: Reader, state: State) -> SweepOut:
    """Get a sweep with its jobs, their figures and the Pareto fronts of accuracy against cost."""
    with state.database.read() as session:
        return service.to_sweep_out(session, sweeps.get(session, caller.project_id, sweep_id))


@router.post("/{sweep_id}/cancel", response_model=SweepOut, responses=problems(NotFound))
@rate_class("writes")
@no_body
def cancel_sweep(sweep_id: str, caller: Writer, state: State, background: BackgroundTasks) -> SweepOut:
    """Cancel all jobs of a sweep that have not ended. Without such a job nothing changes."""
    with state.change(caller, "sweep.cancel", sweep_id) as session:
        cancelled = sweeps.cancel(session, caller.project_id, sweep_id)
        for job in cancelled:
            audit.record(session, caller, "job.cancel", job.id)
        document = service.to_sweep_out(session, sweeps.get(session, caller.project_id, sweep_id))
    for job in cancelled:
        background.add_task(state.broker.publish_job_change, job.id)
    return document


@router.delete("/{sweep_id}", status_code=204, responses=problems(NotFound))
@rate_class("writes")
def delete_sweep(sweep_id: str, caller: Writer, state: State) -> None:
    """Delete a sweep. Its jobs stay and go on; `DELETE /v1/jobs/{id}` deletes them."""
    with state.change(caller, "sweep.delete", sweep_id) as session:
        sweeps.delete(session, caller.project_id, sweep_id)


def _wake(state: AppState, created: Sequence[PreparedJob]) -> None:
    for each in created[:MAX_WAKES]:
        state.broker.wake_job_workers(each.spec.resources.accelerator)
