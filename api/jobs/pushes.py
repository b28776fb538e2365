"""Pushes of a job's artifacts to the Hugging Face hub. The scheduler does the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter, Request, Response

from api.deps import After, Limit, Reader, State, Writer
from api.idempotency import IdempotencyKey, create_responses, idempotent_create
from api.jobs.outputs import NoArtifacts
from api.jobs.push_schemas import PushCreate, PushOut
from api.problems import invalid_field, problems
from api.rate_limit import rate_class
from api.references import REFERENCE_ERRORS, JobId
from api.request_body import json_body, read_json, validate_as
from api.schemas import Failure, Page
from core.errors import MalformedRequest, NotFound, PayloadTooLarge, UnsupportedMedia
from core.spec.parse import did_you_mean
from core.store import jobs, pushes
from core.store.db import Session
from core.store.outbound_tables import OutboundTask
from core.store.pushes import PushTarget

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

_EXAMPLE = {"repo": "acme/deit-pets", "token": "hf_your_token"}
_NOT_PUSHED = frozenset({"predictions.npz"})  # predictions on test images, which may be private


@router.post(
    "/push",
    status_code=202,
    response_model=PushOut,
    responses=create_responses(
        *REFERENCE_ERRORS, NoArtifacts, MalformedRequest, PayloadTooLarge, UnsupportedMedia, status=202
    ),
)
@rate_class("writes")
@json_body(PushCreate, example=_EXAMPLE)
async def push_job(caller: Writer, job_id: JobId, key: IdempotencyKey, request: Request, state: State) -> Response:
    """Push the student of a job to a model repository of the Hugging Face hub, with its model card.

    The push runs after this response; the job's events and `GET …/pushes/{id}` show its end. Files that the
    repository has already are not sent again, and a push without differences makes no commit. While the hub is
    unavailable, the push is repeated for a day.
    """
    body = validate_as(PushCreate, await read_json(request))

    async def prepare() -> Callable[[Session], PushOut]:
        def make(session: Session) -> PushOut:
            target = _target(session, caller.project_id, job_id, body)
            secret_key = state.settings.resolved_secret_key()
            token = body.token.get_secret_value()
            push = pushes.create(session, caller.project_id, job_id, target, token=token, secret_key=secret_key)
            return _push_out(push)

        return make

    identity = ["POST /v1/jobs/push", job_id, body.model_dump(mode="json", exclude={"token"})]
    return await idempotent_create(state, caller, key, request=identity, prepare=prepare, status=202)


@router.get("/pushes", response_model=Page[PushOut], responses=problems(*REFERENCE_ERRORS))
@rate_class("reads")
def list_pushes(caller: Reader, job_id: JobId, state: State, limit: Limit = 20, after: After = None) -> Page[PushOut]:
    """List the job's pushes to hubs, newest first."""
    with state.database.read() as session:
        page = pushes.list_pushes(session, caller.project_id, job_id, limit=limit, after=after)
        return Page(data=[_push_out(push) for push in page.items], has_more=page.has_more)


@router.get("/pushes/{push_id}", response_model=PushOut, responses=problems(*REFERENCE_ERRORS, NotFound))
@rate_class("reads")
def get_push(caller: Reader, job_id: JobId, push_id: str, state: State) -> PushOut:
    """Get a push."""
    with state.database.read() as session:
        return _push_out(pushes.get(session, caller.project_id, job_id, push_id))


def _target(session: Session, project_id: str, job_id: str, body: PushCreate) -> PushTarget:
    """Return what to push. Raises :class:`NoArtifacts`, and ``InvalidRequest`` for an unknown file."""
    job = jobs.get(session, project_id, job_id)
    names = [artifact.name for artifact in jobs.list_artifacts(session, project_id, job_id)]
    if not names:
        raise NoArtifacts(f"The job is {job.status}; its artifacts can be pushed once it has succeeded.")
    return PushTarget(
        repo=body.repo,
        revision=body.revision,
        private=body.private,
        files=_files(names, body.files),
        message=body.message or f"Potstill {job.id}",
        license=body.license,
    )


def _files(names: Sequence[str], requested: Sequence[str] | None) -> list[str]:
    if requested is None:
        return [name for name in names if name not in _NOT_PUSHED]
    for index, name in enumerate(requested):
        if name not in names:
            detail = f"the job has no artifact {name!r}.{did_you_mean(name, names)} It has {', '.join(names)}."
            raise invalid_field(f"/files/{index}", detail)
    return sorted(set(requested))


def _push_out(push: OutboundTask) -> PushOut:
    target, result = push.target, push.result or {}
    return PushOut(
        id=push.id,
        job=push.job_id,
        repo=target["repo"],
        revision=target["revision"],
        private=target["private"],
        files=target["files"],
        status=push.status,
        error=None if push.error is None else Failure(**push.error),
        attempts=push.attempt,
        next_attempt_at=push.next_attempt_at,
        commit=result.get("commit"),
        url=result.get("url"),
        created_at=push.created_at,
        finished_at=push.finished_at,
    )
