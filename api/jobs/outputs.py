"""What belongs to one job: its log, its series, its checkpoints and its files."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from api.deps import After, AppState, Limit, Parts, Reader
from api.downloads import StoredContent, file_answer, file_responses, zip_answer
from api.jobs import service
from api.jobs.schemas import ArtifactOut, CheckpointOut, EventOut, MetricsOut
from api.jobs.stream import HEADERS, event_stream, look
from api.problems import problems
from api.schemas import Page
from core.errors import Conflict, InvalidRequest, NotFound
from core.ids import is_id
from core.store import checkpoints, events, jobs, metrics

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

MAX_POINTS = 100_000
_BINARY = "application/octet-stream"
_STREAM_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The list; with `Accept: text/event-stream` the log live, `id:` being the `seq`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "With `Last-Event-ID`: the job has ended and nothing follows, so do not connect again."},
}


class NoFilesYet(Conflict):
    """The job has not succeeded (yet), so there is nothing to download."""

    code = "no_artifacts"
    title = "The job has nothing to hand out"


@router.get("/events", response_model=Page[EventOut], responses={**problems(NotFound), **_STREAM_ANSWERS})
async def list_events(
    job_id: str,
    who: Reader,
    request: Request,
    parts: Parts,
    *,
    limit: Limit = 20,
    after: After = None,
    last_event_id: Annotated[
        str | None,
        Header(alias="Last-Event-ID", max_length=20, description="Of a stream: the `seq` after which to go on."),
    ] = None,
) -> Any:
    """The job's log, ascending by `seq`; live as server-sent events if that is what `Accept` asks for."""
    if "text/event-stream" not in request.headers.get("accept", "").lower():
        return await to_thread.run_sync(_event_page, parts, who.project_id, job_id, limit, after)
    place = await to_thread.run_sync(_place, parts, who.project_id, job_id, after, last_event_id)
    # Looked at before the answer begins, so that a job which is not there is a 404.
    news = await to_thread.run_sync(look, parts.database, who, job_id, place)
    if last_event_id and news.ended and not news.messages:
        return Response(status_code=204)
    stream = event_stream(parts.live, parts.database, who, job_id, after_seq=place)
    return StreamingResponse(stream, headers=HEADERS, media_type="text/event-stream")


def _event_page(parts: AppState, project_id: str, job_id: str, limit: int, after: str | None) -> Page[EventOut]:
    place = _place(parts, project_id, job_id, after, None)
    with parts.database.read() as session:
        jobs.get(session, project_id, job_id)
        page = events.list_events(session, project_id, job_id, after_seq=place, limit=limit)
        return Page(data=[service.event_out(event) for event in page.items], has_more=page.has_more)


def _place(parts: AppState, project_id: str, job_id: str, after: str | None, last_event_id: str | None) -> int:
    """The ``seq`` after which to go on. ``after`` is an event's id; a stream's ``Last-Event-ID`` wins over it."""
    if last_event_id:
        if not (last_event_id.isascii() and last_event_id.isdecimal() and int(last_event_id) < 2**63):
            raise InvalidRequest("Last-Event-ID must be the `id:` of an event of this stream, a number.")
        return int(last_event_id)
    if after is None:
        return 0
    with parts.database.read() as session:
        jobs.get(session, project_id, job_id)
        seq = events.seq_of(session, project_id, job_id, after) if is_id(after, "evt") else None
    if seq is None:
        raise InvalidRequest(f"after: this job has no event {after!r}; give the id of the last event that you have.")
    return seq


@router.get("/metrics", response_model=MetricsOut, responses=problems(NotFound))
def get_metrics(
    job_id: str,
    who: Reader,
    parts: Parts,
    name: Annotated[str | None, Query(max_length=120, description="One series alone, e.g. `train/loss`.")] = None,
    max_points: Annotated[
        int | None, Query(ge=1, le=MAX_POINTS, description="Thin each series to so many points; peaks are kept.")
    ] = None,
) -> Response:
    """What the job has measured so far, as series of `[step, value]`."""
    with parts.database.read() as session:
        jobs.get(session, who.project_id, job_id)
        found = metrics.series(session, who.project_id, job_id, name=_plain(name), max_points=max_points)
    series = [{"name": each.name, "points": each.points} for each in found]
    # Written here, in a thread: a hundred thousand points would hold up the event loop.
    return Response(to_json({"object": "metrics", "series": series}), media_type="application/json")


def _plain(name: str | None) -> str | None:
    return None if name is None else name.replace("\0", "\ufffd")  # what no series has, and no database takes


@router.get("/checkpoints", response_model=Page[CheckpointOut], responses=problems(NotFound))
def list_checkpoints(
    job_id: str, who: Reader, parts: Parts, limit: Limit = 20, after: After = None
) -> Page[CheckpointOut]:
    """The student's checkpoints, newest first: the newest two to resume from, and those that were asked for."""
    with parts.database.read() as session:
        jobs.get(session, who.project_id, job_id)
        page = checkpoints.list_checkpoints(session, who.project_id, job_id, limit=limit, after=after)
        return Page(data=[service.checkpoint_out(each) for each in page.items], has_more=page.has_more)


_CHECKPOINT = "/checkpoints/{checkpoint_id}/model.safetensors"


@router.head(_CHECKPOINT, include_in_schema=False)
@router.get(_CHECKPOINT, response_class=Response, responses={**problems(NotFound), **file_responses(_BINARY)})
def download_checkpoint(job_id: str, checkpoint_id: str, who: Reader, request: Request, parts: Parts) -> Response:
    """The student's weights at a checkpoint."""
    with parts.database.read() as session:
        jobs.get(session, who.project_id, job_id)
        weights = checkpoints.weights_file(checkpoints.get(session, who.project_id, job_id, checkpoint_id))
    content = StoredContent(weights.key, weights.name, _BINARY, weights.size_bytes, weights.sha256)
    return file_answer(request, parts.store, content)


@router.get("/artifacts", response_model=Page[ArtifactOut], responses=problems(NotFound))
def list_artifacts(job_id: str, who: Reader, parts: Parts) -> Page[ArtifactOut]:
    """The files that the job hands out; none before it has succeeded."""
    with parts.database.read() as session:
        found = jobs.list_artifacts(session, who.project_id, job_id)
        return Page(data=[service.artifact_out(each) for each in found], has_more=False)


@router.head("/artifacts/{name}", include_in_schema=False)
@router.get("/artifacts/{name}", response_class=Response, responses={**problems(NotFound), **file_responses(_BINARY)})
def download_artifact(job_id: str, name: str, who: Reader, request: Request, parts: Parts) -> Response:
    """One file, or a range of it."""
    with parts.database.read() as session:
        found = jobs.get_artifact(session, who.project_id, job_id, name)
    content = StoredContent(found.key, found.name, found.media_type, found.size_bytes, found.sha256)
    return file_answer(request, parts.store, content)


_ZIP: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A folder named after the job, with all its artefacts.",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.head("/download", include_in_schema=False)
@router.get("/download", response_class=Response, responses={**problems(NotFound, NoFilesYet), **_ZIP})
def download_all(job_id: str, who: Reader, request: Request, parts: Parts) -> Response:
    """All artefacts in one zip."""
    with parts.database.read() as session:
        job = jobs.get(session, who.project_id, job_id)
        found = jobs.list_artifacts(session, who.project_id, job_id)
    if not found:
        raise NoFilesYet(f"The job is {job.status}; its files are there once it has succeeded.")
    return zip_answer(request, parts.store, job.id, found)
