"""Which job runs next, and taking back what lost its worker."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select
from sqlalchemy.orm import Session

from core.store import events
from core.store.db import utc_now
from core.store.jobs.rows import NO_FLAGS, landed, landing, off_worker
from core.store.leases import change_where
from core.store.tables import Job

WORKER_LOST = "worker_lost"


def claim(session: Session, *, worker_id: str, accelerator: Literal["cpu", "cuda"], lease_seconds: float) -> Job | None:
    """Take the best queued job that this accelerator can run, or None.

    Projects take turns: the one with the fewest running jobs comes first, then the one that was served longest
    ago, so that none can starve the others, whatever priorities it gives. Of its jobs the one with the highest
    priority is taken, then the oldest. The claim starts a new attempt, which outdates every earlier one, and pins
    an accelerator that was `auto`.
    """
    job_id = session.scalars(_candidates(accelerator).limit(1)).one_or_none()
    if job_id is None:
        return None
    now = utc_now(session)
    job = change_where(
        session,
        Job.id == job_id,
        Job.status == "queued",
        status="running",
        attempt=Job.attempt + 1,
        accelerator=accelerator,
        worker_id=worker_id,
        lease_expires_at=now + timedelta(seconds=lease_seconds),
        started_at=func.coalesce(Job.started_at, now),
    )
    if job is None:  # PostgreSQL read a row that changed under it; the next hint finds what is left
        return None
    data = {"status": job.status, "attempt": job.attempt, "worker": worker_id, "accelerator": accelerator}
    events.record(session, job.id, "job.started", f"Attempt {job.attempt} started.", data=data)
    return job


def _candidates(accelerator: str) -> Select[str]:
    waiting = select(Job.project_id).where(Job.status == "queued")
    served_at = case((Job.started_at.is_not(None), func.coalesce(Job.finished_at, Job.started_at)))
    turns = (
        select(
            Job.project_id,
            func.sum(case((Job.status == "running", 1), else_=0)).label("running"),
            func.max(served_at).label("served_at"),
        )
        .where(Job.project_id.in_(waiting))
        .group_by(Job.project_id)
        .subquery("turns")
    )
    never_first = turns.c.served_at.is_not(None)
    return (
        select(Job.id)
        .join(turns, turns.c.project_id == Job.project_id)
        .where(Job.status == "queued", Job.accelerator.in_(("auto", accelerator)))
        .order_by(turns.c.running, never_first, turns.c.served_at, Job.priority.desc(), Job.created_at, Job.id)
        .with_for_update(skip_locked=True, of=Job)
    )


def claimable(session: Session) -> dict[str, int]:
    """How many queued jobs wait for `cpu`, for `cuda`, and for whichever comes first (`auto`)."""
    statement = select(Job.accelerator, func.count()).where(Job.status == "queued").group_by(Job.accelerator)
    found = {row[0]: row[1] for row in session.execute(statement)}
    return {"auto": 0, "cpu": 0, "cuda": 0, **found}


def expire_leases(session: Session, max_losses: int, *, worker_id: str | None = None) -> list[Job]:
    """Take back the jobs whose worker has been silent for too long; returns them as they are now.

    Each counts a loss. What was asked for meanwhile happens (cancelled, paused); a job with
    ``max_losses`` in a row without a new checkpoint between fails with `worker_lost`; others are queued.
    ``worker_id``: take back the jobs of a worker that is known to be dead, without waiting for its lease.
    """
    now = utc_now(session)
    over: ColumnElement[bool] = or_(Job.lease_expires_at.is_(None), Job.lease_expires_at < now)
    if worker_id is not None:
        over = or_(over, Job.worker_id == worker_id)
    statement = (
        select(Job)
        .where(Job.status == "running", over)
        .order_by(Job.id)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return [_take_back(session, job, max_losses) for job in session.scalars(statement).all()]


def _take_back(session: Session, job: Job, max_losses: int) -> Job:
    now = utc_now(session)
    losses, lost_by = job.losses + 1, job.worker_id
    to = landing(job)
    # Nobody knows when the worker went: the time since its last sign of life is not counted as work.
    values: dict[str, Any] = {**landed(job, to, now), "stages": list(job.stages), "losses": losses}
    message = "Its worker went silent"
    level: events.Level = "warning"
    if to == "queued" and losses >= max_losses:
        message = f"Lost its worker {losses} times in a row without a new checkpoint in between."
        error = {"code": WORKER_LOST, "message": message + " It may need more memory than there is."}
        values = {**off_worker(job, now), **NO_FLAGS, "stages": list(job.stages), "losses": losses}
        values |= {"status": "failed", "error": error, "finished_at": now}
    guard = and_(Job.id == job.id, Job.status == "running", Job.attempt == job.attempt)
    changed = change_where(session, guard, **values)
    assert changed is not None, "the row is locked, so nobody else can have changed it"
    type_, text = {
        "queued": ("worker.lost", f"{message}; queued again."),
        "paused": ("job.paused", f"{message}; paused, as was asked."),
        "cancelled": ("job.cancelled", f"{message}; cancelled, as was asked."),
        "failed": ("job.failed", message),
    }[changed.status]
    data: dict[str, Any] = {"status": changed.status, "worker": lost_by, "losses": losses}
    if changed.error is not None and changed.status == "failed":
        data["error"] = changed.error
        level = "error"
    events.record(session, changed.id, type_, text, level=level, data=data)
    return changed
