"""Outputs of a job: its events, metric series, checkpoints and artifacts."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from api.deps import After, AppState, Limit, Reader, State
from api.downloads import (
    DirectTransferUnavailable,
    StoredContent,
    download_responses,
    file_response,
    sign_direct,
    zip_response,
)
from api.jobs import service
from api.jobs.schemas import ArtifactOut, CheckpointOut, DirectDownloadOut, EventOut, JobLogOut, MetricsOut
from api.jobs.stream import HEADERS, event_stream, read_events
from api.problems import problems
from api.rate_limit import rate_class
from api.references import REFERENCE_ERRORS, JobId
from api.schemas import Page
from core.errors import Conflict, InvalidRequest
from core.ids import is_id
from core.store import checkpoints, events, job_logs, jobs, metrics

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

MAX_POINTS = 100_000
_BINARY = "application/octet-stream"
_STREAM_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The list; with `Accept: text/event-stream` a live stream whose `id:` is the event's `seq`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "With `Last-Event-ID`: the job has ended without further events; do not reconnect."},
}


class NoArtifacts(Conflict):
    """The job has not succeeded, so it has no artifacts."""

    code = "no_artifacts"
    title = "The job has no artifacts"


@router.get("/events", response_model=Page[EventOut], responses={**problems(*REFERENCE_ERRORS), **_STREAM_RESPONSES})
@rate_class("reads")
async def list_events(
    caller: Reader,
    job_id: JobId,
    request: Request,
    state: State,
    *,
    limit: Limit = 20,
    after: After = None,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID", max_length=20, description="For a stream: continue after the event with this `seq`."
        ),
    ] = None,
) -> Any:
    """List the job's events, ascending by `seq`; with `Accept: text/event-stream` as live server-sent events."""
    if "text/event-stream" not in request.headers.get("accept", "").lower():
        return await to_thread.run_sync(_event_page, state, caller.project_id, job_id, limit, after)
    after_seq = await to_thread.run_sync(_after_seq, state, caller.project_id, job_id, after, last_event_id)
    # Read before the response starts, so that an unknown job is a 404.
    batch = await to_thread.run_sync(read_events, state.database, caller, job_id, after_seq)
    if last_event_id and batch.has_ended and not batch.messages:
        return Response(status_code=204)
    stream = event_stream(state.watcher, state.database, caller, job_id, after_seq=after_seq)
    return StreamingResponse(stream, headers=HEADERS, media_type="text/event-stream")


def _event_page(state: AppState, project_id: str, job_id: str, limit: int, after: str | None) -> Page[EventOut]:
    after_seq = _after_seq(state, project_id, job_id, after, None)
    with state.database.read() as session:
        jobs.get(session, project_id, job_id)
        page = events.list_events(session, project_id, job_id, after_seq=after_seq, limit=limit)
        return Page(data=[service.event_out(event) for event in page.items], has_more=page.has_more)


def _after_seq(state: AppState, project_id: str, job_id: str, after: str | None, last_event_id: str | None) -> int:
    """Return the ``seq`` to continue after. ``after`` is an event id; a stream's ``Last-Event-ID`` takes precedence."""
    if last_event_id:
        if not (last_event_id.isascii() and last_event_id.isdecimal() and int(last_event_id) < 2**63):
            raise InvalidRequest("Last-Event-ID must be the `id:` of an event of this stream, a number.")
        return int(last_event_id)
    if after is None:
        return 0
    with state.database.read() as session:
        jobs.get(session, project_id, job_id)
        seq = events.find_seq(session, project_id, job_id, after) if is_id(after, "evt") else None
    if seq is None:
        raise InvalidRequest(f"after: this job has no event {after!r}; send the id of the last received event.")
    return seq


@router.get("/metrics", response_model=MetricsOut, responses=problems(*REFERENCE_ERRORS))
@rate_class("reads")
def get_metrics(
    caller: Reader,
    job_id: JobId,
    state: State,
    name: Annotated[str | None, Query(max_length=120, description="Only this series, e.g. `train/loss`.")] = None,
    max_points: Annotated[
        int | None,
        Query(ge=1, le=MAX_POINTS, description="Reduce each series to this number of points, keeping its peaks."),
    ] = None,
) -> Response:
    """Get the job's metrics, as series of `[step, value]`."""
    with state.database.read() as session:
        jobs.get(session, caller.project_id, job_id)
        found = metrics.read_series(session, caller.project_id, job_id, name=_replace_nul(name), max_points=max_points)
    series = [{"name": each.name, "points": each.points} for each in found]
    # Serialized here, in a thread: a hundred thousand points would block the event loop.
    return Response(to_json({"object": "metrics", "series": series}), media_type="application/json")


@router.get("/logs", response_model=JobLogOut, responses=problems(*REFERENCE_ERRORS))
@rate_class("reads")
def get_log(caller: Reader, job_id: JobId, state: State) -> JobLogOut:
    """Get the last log lines of the job's process, at most 50; of a running job those of a few seconds ago.

    Keys, passwords and other secrets are hidden. The lines are those of the newest attempt.
    """
    with state.database.read() as session:
        jobs.get(session, caller.project_id, job_id)
        return service.log_out(job_id, job_logs.get(session, caller.project_id, job_id))


def _replace_nul(name: str | None) -> str | None:
    """Replace NUL characters: databases reject them, and no series name has one."""
    return None if name is None else name.replace("\0", "\ufffd")


@router.get("/checkpoints", response_model=Page[CheckpointOut], responses=problems(*REFERENCE_ERRORS))
@rate_class("reads")
def list_checkpoints(
    caller: Reader, job_id: JobId, state: State, limit: Limit = 20, after: After = None
) -> Page[CheckpointOut]:
    """List the student's checkpoints, newest first: the newest two for resuming, and the requested ones."""
    with state.database.read() as session:
        jobs.get(session, caller.project_id, job_id)
        page = checkpoints.list_checkpoints(session, caller.project_id, job_id, limit=limit, after=after)
        return Page(data=[service.checkpoint_out(checkpoint) for checkpoint in page.items], has_more=page.has_more)


_CHECKPOINT = "/checkpoints/{checkpoint_id}/model.safetensors"


@router.head(_CHECKPOINT, include_in_schema=False)
@router.get(
    _CHECKPOINT, response_class=Response, responses={**problems(*REFERENCE_ERRORS), **download_responses(_BINARY)}
)
@rate_class("reads")
def download_checkpoint(caller: Reader, job_id: JobId, checkpoint_id: str, request: Request, state: State) -> Response:
    """Download the student's weights at a checkpoint."""
    with state.database.read() as session:
        jobs.get(session, caller.project_id, job_id)
        weights = checkpoints.weights_file(checkpoints.get(session, caller.project_id, job_id, checkpoint_id))
    content = StoredContent(weights.key, weights.name, _BINARY, weights.size_bytes, weights.sha256)
    return file_response(request, state.store, content)


@router.get("/artifacts", response_model=Page[ArtifactOut], responses=problems(*REFERENCE_ERRORS))
@rate_class("reads")
def list_artifacts(caller: Reader, job_id: JobId, state: State) -> Page[ArtifactOut]:
    """List the job's artifacts; empty until it has succeeded."""
    with state.database.read() as session:
        artifacts = jobs.list_artifacts(session, caller.project_id, job_id)
        return Page(data=[service.artifact_out(artifact) for artifact in artifacts], has_more=False)


@router.head("/artifacts/{name:path}", include_in_schema=False)
@router.get(
    "/artifacts/{name:path}",
    response_class=Response,
    responses={**problems(*REFERENCE_ERRORS), **download_responses(_BINARY)},
)
@rate_class("reads")
def download_artifact(caller: Reader, job_id: JobId, name: str, request: Request, state: State) -> Response:
    """Download an artifact, or a range of it. The names of some contain a slash, such as ``pruned/config.json``."""
    with state.database.read() as session:
        artifact = jobs.get_artifact(session, caller.project_id, job_id, name)
    content = StoredContent(artifact.key, artifact.name, artifact.media_type, artifact.size_bytes, artifact.sha256)
    return file_response(request, state.store, content)


@router.get(
    "/artifact-urls/{name:path}",
    response_model=DirectDownloadOut,
    responses=problems(*REFERENCE_ERRORS, DirectTransferUnavailable),
)
@rate_class("reads")
def get_artifact_url(caller: Reader, job_id: JobId, name: str, state: State) -> DirectDownloadOut:
    """Get a URL that downloads an artifact from the service's bucket, without a key and without the API in between."""
    with state.database.read() as session:
        artifact = jobs.get_artifact(session, caller.project_id, job_id, name)
    direct = sign_direct(state.store, state.settings, artifact.key, "GET")
    return DirectDownloadOut(
        url=direct.url, expires_at=direct.expires_at, size_bytes=artifact.size_bytes, sha256=artifact.sha256
    )


_ZIP: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A zip with one folder, named after the job, that contains all its artifacts.",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.head("/download", include_in_schema=False)
@router.get("/download", response_class=Response, responses={**problems(*REFERENCE_ERRORS, NoArtifacts), **_ZIP})
@rate_class("reads")
def download_all(caller: Reader, job_id: JobId, request: Request, state: State) -> Response:
    """Download all artifacts as a zip."""
    with state.database.read() as session:
        job = jobs.get(session, caller.project_id, job_id)
        artifacts = jobs.list_artifacts(session, caller.project_id, job_id)
    if not artifacts:
        raise NoArtifacts(f"The job is {job.status}; its artifacts are available once it has succeeded.")
    return zip_response(request, state.store, job.id, artifacts)
