"""``/v1/jobs`` and ``/v1/estimates``: parse, delegate, status code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request, Response

from api.deps import After, AppState, Limit, Parts, Reader, Writer, recalled_reader, service_parts
from api.downloads import discard
from api.idempotency import IdempotencyKey, created, idempotent_create
from api.jobs import service
from api.jobs.actions import move_job
from api.jobs.retry import RetryRequest, retry_changed
from api.jobs.schemas import EXAMPLE_SPEC, EstimateOut, JobOut, JobStatus
from api.jobs.stream import wait_until_terminal
from api.problems import problems
from api.request_body import json_body, read_json, validated
from api.schemas import Page
from core.errors import (
    InUse,
    InvalidSpec,
    InvalidState,
    MalformedRequest,
    NotAvailable,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    UnsupportedMedia,
)
from core.spec import JobSpec, parse_job_spec
from core.store import jobs, quotas
from core.store.db import Session

router = APIRouter(tags=["jobs"])

MAX_WAIT_SECONDS = 60
_SPEC_PROBLEMS = (InvalidSpec, NotAvailable, MalformedRequest, PayloadTooLarge, UnsupportedMedia)


async def job_spec(request: Request) -> JobSpec:
    """The body as a job spec. Raises :class:`InvalidSpec` and what ``read_json`` raises."""
    return parse_job_spec(await read_json(request))


Spec = Annotated[JobSpec, Depends(job_spec)]


@router.post(
    "/v1/jobs",
    status_code=201,
    response_model=JobOut,
    responses=created(*_SPEC_PROBLEMS, QuotaExceeded, status=201),
    openapi_extra=json_body(JobSpec, example=EXAMPLE_SPEC),
)
async def create_job(
    who: Writer, key: IdempotencyKey, spec: Spec, parts: Parts, background: BackgroundTasks
) -> Response:
    """Queue a distillation job.

    The spec is checked in full before it is queued: architectures, arguments, sizes, classes, and
    whether the method can bridge teacher and student. Once this has answered 201 the job is not lost.
    """

    async def prepare() -> Callable[[Session], JobOut]:
        inputs = await _inputs(parts, who.project_id, spec)
        resolution = await service.resolve(parts.inspector, spec, inputs, threads=parts.settings.job_threads)

        def make(session: Session) -> JobOut:
            quotas.require_job(session, who.project_id, parts.settings)
            return service.to_job_out(service.create(session, who.project_id, spec, resolution))

        return make

    background.add_task(parts.hints.wake_job_workers, spec.resources.accelerator)
    request = ["POST /v1/jobs", spec.model_dump(mode="json")]
    return await idempotent_create(parts, who, key, request=request, prepare=prepare, status=201)


@router.post(
    "/v1/estimates",
    response_model=EstimateOut,
    openapi_extra=json_body(JobSpec, example=EXAMPLE_SPEC),
    responses=problems(*_SPEC_PROBLEMS),
)
async def estimate_job(who: Reader, spec: Spec, parts: Parts) -> Any:
    """What a job would take and give; nothing is queued."""
    inputs = await _inputs(parts, who.project_id, spec)
    question = service.question(spec, inputs, threads=parts.settings.job_threads)
    estimate = (await parts.inspector.ask("resolve", question))["estimate"]
    return await to_thread.run_sync(service.with_hit, parts.database, who.project_id, spec, estimate)


@router.get("/v1/jobs", response_model=Page[JobOut], responses=problems())
def list_jobs(
    who: Reader,
    parts: Parts,
    status: Annotated[JobStatus | None, Query(description="Only jobs of this status.")] = None,
    limit: Limit = 20,
    after: After = None,
) -> Page[JobOut]:
    """Jobs, newest first."""
    with parts.database.read() as session:
        page = jobs.list_jobs(session, who.project_id, status=status, limit=limit, after=after)
        return Page(data=[service.to_job_out(job) for job in page.items], has_more=page.has_more)


@router.get("/v1/jobs/{job_id}", response_model=JobOut, responses=problems(NotFound))
async def get_job(
    job_id: str,
    request: Request,
    wait: Annotated[
        float,
        Query(ge=0, le=MAX_WAIT_SECONDS, description="Answer when the job is terminal, or after so many seconds."),
    ] = 0,
) -> Response:
    """One job; with `wait`, as soon as it has ended."""
    # This is asked more often than all else. So it takes nothing by way of FastAPI, which would also check the answer.
    parts, who = await service_parts(request), await recalled_reader(request)
    job = await wait_until_terminal(parts.live, parts.database, who, job_id, seconds=wait)
    return Response(service.to_job_out(job).model_dump_json(), media_type="application/json")


@router.delete("/v1/jobs/{job_id}", status_code=204, responses=problems(NotFound, InvalidState, InUse))
def delete_job(job_id: str, who: Writer, parts: Parts) -> None:
    """Delete a job that has ended, with its files. Its student stays as a model."""
    with parts.change(who, "job.delete", job_id) as session:
        files = jobs.delete(session, who.project_id, job_id)
    discard(parts.store, files)


_MOVE_PROBLEMS = problems(NotFound, InvalidState)


@router.post("/v1/jobs/{job_id}/cancel", response_model=JobOut, responses=_MOVE_PROBLEMS)
def cancel_job(job_id: str, who: Writer, parts: Parts, background: BackgroundTasks) -> JobOut:
    """End a job without a student; its checkpoints are kept."""
    return service.to_job_out(move_job(parts, who, job_id, "cancel", background))


@router.post("/v1/jobs/{job_id}/pause", response_model=JobOut, responses=_MOVE_PROBLEMS)
def pause_job(job_id: str, who: Writer, parts: Parts, background: BackgroundTasks) -> JobOut:
    """Put a job aside at its next step; it keeps its place."""
    return service.to_job_out(move_job(parts, who, job_id, "pause", background))


@router.post("/v1/jobs/{job_id}/resume", response_model=JobOut, responses=_MOVE_PROBLEMS)
def resume_job(job_id: str, who: Writer, parts: Parts, background: BackgroundTasks) -> JobOut:
    """Queue a paused job again; it goes on where it was."""
    return service.to_job_out(move_job(parts, who, job_id, "resume", background))


@router.post("/v1/jobs/{job_id}/stop", response_model=JobOut, responses=_MOVE_PROBLEMS)
def stop_job(job_id: str, who: Writer, parts: Parts, background: BackgroundTasks) -> JobOut:
    """End training early, then evaluate and export what there is."""
    return service.to_job_out(move_job(parts, who, job_id, "stop", background))


@router.post(
    "/v1/jobs/{job_id}/retry",
    response_model=JobOut,
    responses=problems(NotFound, InvalidState, QuotaExceeded, *_SPEC_PROBLEMS),
    openapi_extra=json_body(RetryRequest, example={"apply_fix": True}, required=False),
)
async def retry_job(job_id: str, request: Request, who: Writer, parts: Parts, background: BackgroundTasks) -> JobOut:
    """Queue a failed or cancelled job again, from its last checkpoint; with a body, with another spec.

    Changes are checked as a new spec is. A student that depends on what is changed begins anew.
    """
    body = await request.body()
    asked = validated(RetryRequest, await read_json(request)) if body.strip() else RetryRequest()
    if asked.asks_for_changes:
        return service.to_job_out(await retry_changed(parts, who, job_id, asked, background))
    return service.to_job_out(await to_thread.run_sync(move_job, parts, who, job_id, "retry", background))


async def _inputs(parts: AppState, project_id: str, spec: JobSpec) -> service.Inputs:
    return await to_thread.run_sync(service.inputs_of, parts, project_id, spec)
