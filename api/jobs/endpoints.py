"""``/v1/jobs`` and ``/v1/estimates``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request, Response

from api.deps import AppState, Reader, State, Writer, get_app_state, get_cached_reader, get_reader
from api.downloads import discard
from api.idempotency import IdempotencyKey, create_responses, idempotent_create
from api.jobs import service
from api.jobs.actions import apply_action
from api.jobs.filters import JobListQuery
from api.jobs.retry import RetryRequest, retry_with_changes
from api.jobs.reuse import EarlierJobs
from api.jobs.schemas import EXAMPLE_SPEC, EstimateOut, JobOut
from api.jobs.stream import wait_until_terminal
from api.jobs.worker_checks import waiting_reasons
from api.problems import problems
from api.rate_limit import rate_class
from api.references import REFERENCE_ERRORS, JobId, PathText, check_name, find_path_id
from api.request_body import json_body, no_body, read_json, validate_as
from api.schemas import Page
from core.errors import (
    AmbiguousReference,
    InUse,
    InvalidSpec,
    InvalidState,
    MalformedRequest,
    NotAvailable,
    PayloadTooLarge,
    QuotaExceeded,
    UnsupportedMedia,
)
from core.spec import JobSpec, parse_job_spec
from core.store import jobs, quotas
from core.store.db import Session
from core.store.names import is_full_id
from core.store.tables import Job

router = APIRouter(tags=["jobs"])

MAX_WAIT_SECONDS = 60
_SPEC_ERRORS = (InvalidSpec, NotAvailable, AmbiguousReference, MalformedRequest, PayloadTooLarge, UnsupportedMedia)


async def get_job_spec(request: Request) -> JobSpec:
    """Parse the body as a job spec. Raises :class:`InvalidSpec` and what ``read_json`` raises."""
    return parse_job_spec(await read_json(request))


Spec = Annotated[JobSpec, Depends(get_job_spec)]


@router.post(
    "/v1/jobs",
    status_code=201,
    response_model=JobOut,
    responses=create_responses(*_SPEC_ERRORS, QuotaExceeded, status=201),
)
@rate_class("jobs")
@json_body(JobSpec, example=EXAMPLE_SPEC)
async def create_job(
    caller: Writer, key: IdempotencyKey, spec: Spec, state: State, background: BackgroundTasks
) -> Response:
    """Create a distillation job.

    The complete spec is checked before the job is queued: architectures, arguments, sizes, classes, and whether the
    method supports this teacher and student. After the response 201 the job is stored durably.
    """

    async def prepare() -> Callable[[Session], JobOut]:
        check_name(spec.name, error=InvalidSpec, is_keyword_reserved=True)  # its student gets this name
        with_ids, inputs = await _inputs(state, caller.project_id, spec)
        resolution = await service.resolve(state.inspector, with_ids, inputs, threads=state.settings.job_threads)

        def make(session: Session) -> JobOut:
            quotas.require_job_slot(session, caller.project_id, state.settings)
            job = service.create(session, caller, with_ids, inputs, resolution)
            reasons = waiting_reasons(session, [job], alive_seconds=state.settings.alive_seconds)
            return service.to_job_out(job, waiting_reason=reasons.get(job.id))

        return make

    background.add_task(state.broker.wake_job_workers, spec.resources.accelerator)
    request = ["POST /v1/jobs", spec.model_dump(mode="json")]
    return await idempotent_create(state, caller, key, request=request, prepare=prepare, status=201)


@router.post(
    "/v1/estimates",
    response_model=EstimateOut,
    responses=problems(*_SPEC_ERRORS),
)
@rate_class("questions")
@json_body(JobSpec, example=EXAMPLE_SPEC)
async def estimate_job(caller: Reader, spec: Spec, state: State) -> Any:
    """Estimate the cost of a job and the size of its student, without creating the job."""
    spec, inputs = await _inputs(state, caller.project_id, spec)
    payload = service.resolve_payload(spec, inputs, threads=state.settings.job_threads)
    resolution = await state.inspector.call("resolve", payload)
    estimate = service.add_input_warnings(resolution["estimate"], inputs)
    earlier = EarlierJobs(state.database, caller.project_id)
    return await to_thread.run_sync(earlier.add_reuse, resolution["spec"], estimate)


@router.get("/v1/jobs", response_model=Page[JobOut], responses=problems())
@rate_class("reads")
def list_jobs(caller: Reader, state: State, query: Annotated[JobListQuery, Query()]) -> Page[JobOut]:
    """List jobs: newest first, or by a figure. All filters apply."""
    with state.database.read() as session:
        filters = query.job_filter(session, caller.project_id)
        page = jobs.list_jobs(
            session, caller.project_id, filters, order=query.job_order(), limit=query.limit, after=query.after
        )
        reasons = waiting_reasons(session, page.items, alive_seconds=state.settings.alive_seconds)
    data = [service.to_job_out(job, waiting_reason=reasons.get(job.id)) for job in page.items]
    return Page(data=data, has_more=page.has_more)


@router.get("/v1/jobs/{job_id}", response_model=JobOut, responses=problems(*REFERENCE_ERRORS))
@rate_class("reads")
async def get_job(
    job_id: PathText,
    request: Request,
    wait: Annotated[
        float,
        Query(ge=0, le=MAX_WAIT_SECONDS, description="Respond when the job is terminal, or after this many seconds."),
    ] = 0,
) -> Response:
    """Get a job; with `wait`, as soon as it has ended."""
    # The most frequent request: it avoids the cost of FastAPI's dependencies and response validation.
    state = await get_app_state(request)
    # A name is looked up only for a key that was checked now.
    caller = await (get_cached_reader if is_full_id("job", job_id) else get_reader)(request)
    job_id = await find_path_id(request, caller, "job", job_id)
    job = await wait_until_terminal(state.watcher, state.database, caller, job_id, seconds=wait)
    reason = await to_thread.run_sync(_read_waiting_reason, state, job) if job.status == "queued" else None
    document = service.to_job_out(job, waiting_reason=reason)
    return Response(document.model_dump_json(), media_type="application/json")


@router.delete("/v1/jobs/{job_id}", status_code=204, responses=problems(*REFERENCE_ERRORS, InvalidState, InUse))
@rate_class("writes")
def delete_job(caller: Writer, job_id: JobId, state: State) -> None:
    """Delete a job that has ended, with its files. Its student remains as a model."""
    with state.change(caller, "job.delete", job_id) as session:
        files = jobs.delete(session, caller.project_id, job_id)
    discard(state.store, files)


_ACTION_RESPONSES = problems(*REFERENCE_ERRORS, InvalidState)


@router.post("/v1/jobs/{job_id}/cancel", response_model=JobOut, responses=_ACTION_RESPONSES)
@rate_class("writes")
@no_body
def cancel_job(caller: Writer, job_id: JobId, state: State, background: BackgroundTasks) -> JobOut:
    """Cancel a job: it exports no student, and keeps its checkpoints."""
    return service.to_job_out(apply_action(state, caller, job_id, "cancel", background))


@router.post("/v1/jobs/{job_id}/pause", response_model=JobOut, responses=_ACTION_RESPONSES)
@rate_class("writes")
@no_body
def pause_job(caller: Writer, job_id: JobId, state: State, background: BackgroundTasks) -> JobOut:
    """Pause a job at its next step; `resume` continues from there."""
    return service.to_job_out(apply_action(state, caller, job_id, "pause", background))


@router.post("/v1/jobs/{job_id}/resume", response_model=JobOut, responses=_ACTION_RESPONSES)
@rate_class("writes")
@no_body
def resume_job(caller: Writer, job_id: JobId, state: State, background: BackgroundTasks) -> JobOut:
    """Queue a paused job again; it resumes from its checkpoint."""
    return service.to_job_out(apply_action(state, caller, job_id, "resume", background))


@router.post("/v1/jobs/{job_id}/stop", response_model=JobOut, responses=_ACTION_RESPONSES)
@rate_class("writes")
@no_body
def stop_job(caller: Writer, job_id: JobId, state: State, background: BackgroundTasks) -> JobOut:
    """Stop training early, then evaluate and export the student."""
    return service.to_job_out(apply_action(state, caller, job_id, "stop", background))


@router.post(
    "/v1/jobs/{job_id}/retry",
    response_model=JobOut,
    responses=problems(*REFERENCE_ERRORS, InvalidState, QuotaExceeded, *_SPEC_ERRORS),
)
@rate_class("writes")
@json_body(RetryRequest, example={"apply_fix": True}, required=False)
async def retry_job(
    caller: Writer, job_id: JobId, request: Request, state: State, background: BackgroundTasks
) -> JobOut:
    """Queue a failed or cancelled job again from its last checkpoint; with a body, with a changed spec.

    After the retention time of its checkpoints (a setting, 7 days), its training restarts from step 0.
    Changes are validated like a new spec. If the student depends on them, its training restarts from step 0.
    """
    has_body = bool((await request.body()).strip())
    body = validate_as(RetryRequest, await read_json(request)) if has_body else RetryRequest()
    if body.has_changes:
        return service.to_job_out(await retry_with_changes(state, caller, job_id, body, background))
    return service.to_job_out(await to_thread.run_sync(apply_action, state, caller, job_id, "retry", background))


def _read_waiting_reason(state: AppState, job: Job) -> str | None:
    with state.database.read() as session:
        return waiting_reasons(session, [job], alive_seconds=state.settings.alive_seconds).get(job.id)


async def _inputs(state: AppState, project_id: str, spec: JobSpec) -> tuple[JobSpec, service.Inputs]:
    return await to_thread.run_sync(service.read_inputs, state, project_id, spec)
