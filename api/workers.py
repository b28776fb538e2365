"""``/v1/workers``: who is alive, on what, doing which job."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from api.deps import Parts, Reader
from api.problems import problems
from api.schemas import Moment, Out
from core.errors import NotFound
from core.store import jobs, workers
from core.store.db import Session
from core.store.tables import Worker

router = APIRouter(prefix="/v1/workers", tags=["service"])

# Processes say that they live at least every heartbeat; three missed ones in a row mean that they do not.
_MISSED_BEATS = 3


class WorkerOut(Out):
    """A process of the service."""

    id: str
    object: Literal["worker"] = "worker"
    role: str
    host: str
    accelerator: str | None
    device: str | None
    job: str | None = Field(description="What it works on; null also where that is another project's.")
    busy: bool
    created_at: Moment
    last_seen_at: Moment


class WorkersOut(Out):
    """Who is alive, and what waits for them."""

    object: Literal["list"] = "list"
    data: list[WorkerOut]
    has_more: Literal[False] = False
    queues: dict[str, int] | None = Field(description="Messages in the broker; null where it cannot be reached.")
    queued_jobs: dict[str, int] = Field(description="Jobs that wait, by the accelerator that they ask for.")


@router.get("", response_model=WorkersOut, responses=problems())
def list_workers(who: Reader, parts: Parts) -> WorkersOut:
    """The processes that are alive, and the lengths of the queues."""
    alive_seconds = _MISSED_BEATS * parts.settings.heartbeat_seconds
    with parts.database.read() as session:
        found = workers.list_workers(session, alive_seconds=alive_seconds)
        own = {each.job_id for each in found if _is_own(session, who.project_id, each.job_id)}
        waiting = jobs.claimable(session)
    data = [_worker(each, own) for each in found]
    return WorkersOut(data=data, queues=parts.hints.queue_lengths(), queued_jobs=waiting)


def _is_own(session: Session, project_id: str, job_id: str | None) -> bool:
    if job_id is None:
        return False
    try:
        jobs.get(session, project_id, job_id)
    except NotFound:
        return False
    return True


def _worker(worker: Worker, own: set[str | None]) -> WorkerOut:
    return WorkerOut(
        id=worker.id,
        role=worker.role,
        host=worker.host,
        accelerator=worker.accelerator,
        device=worker.device,
        job=worker.job_id if worker.job_id in own else None,
        busy=worker.job_id is not None,
        created_at=worker.started_at,
        last_seen_at=worker.last_seen_at,
    )
