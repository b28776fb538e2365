"""Processes of ours that are alive, for `GET /v1/workers` and for the scheduler. They belong to no project."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.store.db import utc_now
from core.store.tables import Worker

Role = Literal["worker", "ingest", "inspector", "scheduler", "api"]


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
    """Say hello; again with the same id is fine."""
    now = utc_now(session)
    worker = session.get(Worker, worker_id) or Worker(id=worker_id, started_at=now)
    worker.role, worker.host, worker.pid = role, host, pid
    worker.accelerator, worker.device = accelerator, device
    worker.details, worker.last_seen_at = dict(details or {}), now
    session.add(worker)
    session.flush()
    return worker


def record_heartbeat(session: Session, worker_id: str, *, job_id: str | None = None) -> bool:
    """Give a sign of life and say which job is at hand; False where it is unknown (by now): register again."""
    worker = session.get(Worker, worker_id)
    if worker is None:
        return False
    worker.job_id, worker.last_seen_at = job_id, utc_now(session)
    session.flush()
    return True


def set_job(session: Session, worker_id: str, job_id: str | None) -> None:
    """Say which job a worker has at hand (None: none any more), as a sign of life; nothing for an unknown worker."""
    record_heartbeat(session, worker_id, job_id=job_id)


def list_workers(session: Session, *, alive_seconds: float | None = None) -> list[Worker]:
    """Those that gave a sign of life within ``alive_seconds``, or all; by role, oldest first."""
    statement = select(Worker)
    if alive_seconds is not None:
        statement = statement.where(Worker.last_seen_at >= utc_now(session) - timedelta(seconds=alive_seconds))
    return list(session.scalars(statement.order_by(Worker.role, Worker.started_at, Worker.id)))


def remove(session: Session, worker_id: str) -> None:
    """Say goodbye."""
    session.execute(delete(Worker).where(Worker.id == worker_id).execution_options(synchronize_session=False))


def prune(session: Session, silent_seconds: float) -> list[Worker]:
    """Forget those that have been silent for longer; returns them."""
    since = utc_now(session) - timedelta(seconds=silent_seconds)
    gone = list(session.scalars(select(Worker).where(Worker.last_seen_at < since)))
    for worker in gone:
        session.delete(worker)
    session.flush()
    return gone
