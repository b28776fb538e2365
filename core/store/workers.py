"""Registry of live service processes, for `GET /v1/workers` and the scheduler. They belong to no project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.store.db import utc_now
from core.store.tables import Worker

Role = Literal["worker", "ingest", "inspector", "scheduler", "api"]
State = Literal["starting", "idle", "busy", "draining"]


def register(
    session: Session,
    *,
    worker_id: str,
    role: Role,
    host: str,
    pid: int,
    accelerator: str | None = None,
    device: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Worker:
    """Register a process; a repeated call with the same id updates it."""
    now = utc_now(session)
    worker = session.get(Worker, worker_id) or Worker(id=worker_id, started_at=now)
    worker.role, worker.host, worker.pid = role, host, pid
    worker.accelerator, worker.device = accelerator, device
    worker.details, worker.last_seen_at = dict(details or {}), now
    session.add(worker)
    session.flush()
    return worker


def record_heartbeat(
    session: Session, worker_id: str, *, job_id: str | None = None, details: Mapping[str, Any] | None = None
) -> bool:
    """Record a heartbeat, the current job and changed details.

    Returns False if the worker is not registered (any more): register again.
    """
    worker = session.get(Worker, worker_id)
    if worker is None:
        return False
    worker.job_id, worker.last_seen_at = job_id, utc_now(session)
    worker.details = {**worker.details, **(details or {})}
    session.flush()
    return True


def get_state(worker: Worker) -> State:
    """Return the state of a live worker. `starting`: it imports its modules; `draining`: it finishes and stops."""
    if worker.details.get("draining"):
        return "draining"
    if not worker.details.get("ready", True):
        return "starting"
    return "idle" if worker.job_id is None else "busy"


def list_workers(session: Session, *, alive_seconds: float | None = None) -> list[Worker]:
    """List the workers with a heartbeat within ``alive_seconds``, or all; by role, oldest first."""
    statement = select(Worker)
    if alive_seconds is not None:
        statement = statement.where(Worker.last_seen_at >= utc_now(session) - timedelta(seconds=alive_seconds))
    return list(session.scalars(statement.order_by(Worker.role, Worker.started_at, Worker.id)))


@dataclass(frozen=True, slots=True)
class Capacity:
    """The live job workers of one accelerator, ``auto``: of any.

    ``memory_bytes``: memory for a job of the largest one, None if unknown. ``devices``: devices of the one that has
    most, None if it is not limited by devices.
    """

    num_workers: int
    num_busy: int = 0
    memory_bytes: int | None = None
    devices: int | None = None


def capacity(session: Session, accelerator: str, *, alive_seconds: float) -> Capacity:
    """Return the capacity of the live workers that claim jobs for an accelerator."""
    alive = [
        worker
        for worker in list_workers(session, alive_seconds=alive_seconds)
        if worker.role == "worker" and accelerator in {"auto", worker.accelerator}
    ]
    sizes = [worker.details.get("memory_bytes") for worker in alive]
    counts = [worker.details.get("devices") for worker in alive]
    return Capacity(
        num_workers=len(alive),
        num_busy=sum(worker.job_id is not None for worker in alive),
        memory_bytes=max((size for size in sizes if size), default=None) if all(sizes) else None,
        devices=max((count for count in counts if count), default=None) if all(counts) else None,
    )


def remove(session: Session, worker_id: str) -> None:
    """Unregister a process."""
    session.execute(delete(Worker).where(Worker.id == worker_id).execution_options(synchronize_session=False))


def prune(session: Session, silent_seconds: float) -> list[Worker]:
    """Delete and return the workers without a heartbeat within ``silent_seconds``."""
    oldest = utc_now(session) - timedelta(seconds=silent_seconds)
    silent = list(session.scalars(select(Worker).where(Worker.last_seen_at < oldest)))
    for worker in silent:
        session.delete(worker)
    session.flush()
    return silent
