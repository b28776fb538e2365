"""``/v1/workers``: the live processes of the service and their jobs."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from api.deps import Reader, State
from api.problems import problems
from api.rate_limit import rate_class
from api.schemas import Out, Timestamp
from core.errors import NotFound
from core.store import jobs, workers
from core.store.db import Session
from core.store.tables import Worker

router = APIRouter(prefix="/v1/workers", tags=["service"])


class WorkerOut(Out):
    """A process of the service."""

    id: str
    object: Literal["worker"] = "worker"
    role: str
    host: str
    accelerator: str | None
    device: str | None
    devices: int | None = Field(description="Number of its CUDA devices.")
    memory_bytes: int | None = Field(description="Memory for a job: that of a CUDA device, or of the process on a CPU.")
    job: str | None = Field(description="Its current job; null if idle or if the job is another project's.")
    busy: bool
    created_at: Timestamp
    last_seen_at: Timestamp


class WorkersOut(Out):
    """The live processes and the queues."""

    object: Literal["list"] = "list"
    data: list[WorkerOut]
    has_more: Literal[False] = False
    queues: dict[str, int] | None = Field(description="Messages in the broker; null if it is unreachable.")
    queued_jobs: dict[str, int] = Field(description="Queued jobs, by requested accelerator.")


@router.get("", response_model=WorkersOut, responses=problems())
@rate_class("reads")
def list_workers(caller: Reader, state: State) -> WorkersOut:
    """List the live processes and the lengths of the queues."""
    with state.database.read() as session:
        alive = workers.list_workers(session, alive_seconds=state.settings.alive_seconds)
        own_jobs = {worker.job_id for worker in alive if _is_own_job(session, caller.project_id, worker.job_id)}
        queued = jobs.count_queued(session)
    data = [_worker(worker, own_jobs) for worker in alive]
    return WorkersOut(data=data, queues=state.broker.queue_lengths(), queued_jobs=queued)


def _is_own_job(session: Session, project_id: str, job_id: str | None) -> bool:
    if job_id is None:
        return False
    try:
        jobs.get(session, project_id, job_id)
    except NotFound:
        return False
    return True


def _worker(worker: Worker, own_jobs: set[str | None]) -> WorkerOut:
    return WorkerOut(
        id=worker.id,
        role=worker.role,
        host=worker.host,
        accelerator=worker.accelerator,
        device=worker.device,
        devices=worker.details.get("devices"),
        memory_bytes=worker.details.get("memory_bytes"),
        job=worker.job_id if worker.job_id in own_jobs else None,
        busy=worker.job_id is not None,
        created_at=worker.started_at,
        last_seen_at=worker.last_seen_at,
    )
