"""Which job runs next, and taking back what lost its worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, union, union_all, update
from sqlalchemy.orm import Session

from core.errors import WorkerLost
from core.job_failure import SILENT, FailureCause, in_short
from core.store import events
from core.store.db import utc_now
from core.store.job_leases import LeaseToken, change_where, lock_job
from core.store.jobs.row_values import NO_FLAGS, next_status, release_values, status_values
from core.store.project_tables import Project
from core.store.tables import Job, status_is

WORKER_LOST = WorkerLost.code


def claim(session: Session, *, worker_id: str, accelerator: Literal["cpu", "cuda"], lease_seconds: float) -> Job | None:
    """Take the best queued job that this accelerator can run, or None.

    Projects take turns: the one with the fewest running jobs comes first, then the one that was served longest
    ago, so that none can starve the others, whatever priorities it gives. Of its jobs the one with the highest
    priority is taken, then the oldest. The claim starts a new attempt, which outdates every earlier one, and pins
    an accelerator that was `auto`.
    """
    job_id = next((found for place in places(session, accelerator) if (found := _lock(session, place))), None)
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
    session.execute(update(Project).where(Project.id == job.project_id).values(served_at=now))
    data = {"status": job.status, "attempt": job.attempt, "worker": worker_id, "accelerator": accelerator}
    events.record(session, job.id, "job.started", f"Attempt {job.attempt} started.", data=data)
    return job


@dataclass(frozen=True, slots=True)
class QueueSlot:
    """Where queued jobs wait in one line, the oldest first: of one project and one priority."""

    accelerators: tuple[str, ...]
    project_id: str
    priority: int


def places(session: Session, accelerator: str) -> Iterator[QueueSlot]:
    """The lines of queued jobs in the order in which they are to be served.

    What it costs grows with the number of projects that wait, and not with the jobs: the index is asked for one
    job of each alone.
    """
    runs = ("auto", accelerator)
    for project_id in _in_turn(session.execute(fair_share(runs)).all()):
        below: int | None = None
        while (priority := session.scalars(highest_priority(runs, project_id, below)).one()) is not None:
            yield QueueSlot(runs, project_id, priority)
            below = priority


def _in_turn(rows: Sequence[Any]) -> list[str]:
    """Project ids: fewest running jobs, then never served, then served longest ago, then the oldest project."""
    return [
        row.id
        for row in sorted(
            rows, key=lambda row: (row.running, row.served_at.timestamp() if row.served_at else 0, row.id)
        )
    ]


def fair_share(accelerators: Sequence[str]) -> Select[Any]:
    """Each project that waits for any of these accelerators, when it was served and how many jobs of it run."""
    waits = union(*(_waiting_projects(one) for one in accelerators)).subquery("waits")
    running = select(func.count()).where(status_is("running"), Job.project_id == Project.id).scalar_subquery()
    return select(Project.id, Project.served_at, running.label("running")).join(waits, waits.c.project_id == Project.id)


def _waiting_projects(accelerator: str) -> Select[Any]:
    """The projects with such jobs, by skipping through the index from one to the next."""
    here = (status_is("queued"), Job.accelerator == accelerator)
    found = (
        select(func.min(Job.project_id).label("project_id")).where(*here).cte(f"found_{accelerator}", recursive=True)
    )
    next_one = select(func.min(Job.project_id)).where(*here, Job.project_id > found.c.project_id).scalar_subquery()
    found = found.union_all(select(next_one).where(found.c.project_id.is_not(None)))
    return select(found.c.project_id).where(found.c.project_id.is_not(None))


def highest_priority(accelerators: Sequence[str], project_id: str, below: int | None) -> Select[Any]:
    """The highest priority below one (None: of all) of a project's queued jobs for any of these accelerators."""
    best = []
    for accelerator in accelerators:
        of_all = select(func.max(Job.priority)).where(*_in_line(accelerator, project_id))
        best.append(of_all if below is None else of_all.where(Job.priority < below))
    each = union_all(*(select(one.scalar_subquery().label("priority")) for one in best)).subquery("each")
    return select(func.max(each.c.priority))


def _in_line(accelerator: str, project_id: str) -> tuple[ColumnElement[bool], ...]:
    return (status_is("queued"), Job.accelerator == accelerator, Job.project_id == project_id)


def _lock(session: Session, place: QueueSlot) -> str | None:
    """Lock the oldest job of a place that nobody else is claiming; its id, or None."""
    heads = []
    for accelerator in place.accelerators:
        head = oldest_in(place, accelerator).with_for_update(skip_locked=True)
        heads += [(row.created_at, row.id) for row in session.execute(head)]
    return min(heads)[1] if heads else None


def oldest_in(place: QueueSlot, accelerator: str) -> Select[str, datetime]:
    """The oldest queued job of a place."""
    return (
        select(Job.id, Job.created_at)
        .where(*_in_line(accelerator, place.project_id), Job.priority == place.priority)
        .order_by(Job.created_at, Job.id)
        .limit(1)
    )


def claimable(session: Session) -> dict[str, int]:
    """How many queued jobs wait for `cpu`, for `cuda`, and for whichever comes first (`auto`)."""
    statement = select(Job.accelerator, func.count()).where(status_is("queued")).group_by(Job.accelerator)
    found = {row[0]: row[1] for row in session.execute(statement)}
    return {"auto": 0, "cpu": 0, "cuda": 0, **found}


def waiting(session: Session) -> frozenset[str]:
    """For which of `auto`, `cpu` and `cuda` a job is queued; as cheap however many there are."""
    kinds = ("auto", "cpu", "cuda")
    # The first project, and not whether there is any job: that would be looked for among all rows.
    first = [
        select(func.min(Job.project_id)).where(status_is("queued"), Job.accelerator == kind).scalar_subquery()
        for kind in kinds
    ]
    found = session.execute(select(*first)).one()
    return frozenset(kind for kind, project in zip(kinds, found, strict=True) if project is not None)


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
        .where(status_is("running"), over)
        .order_by(Job.id)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return [_take_back(session, job, max_losses) for job in session.scalars(statement).all()]


def record_loss(session: Session, attempt: LeaseToken, cause: FailureCause, max_losses: int) -> Job:
    """Take the job back from an attempt whose process is known to be dead, which is a loss like any other.

    ``cause`` is what ended it, and the job's error if this was a loss too many. Raises ``LeaseLost``.
    """
    return _take_back(session, lock_job(session, attempt), max_losses, cause)


def _take_back(session: Session, job: Job, max_losses: int, cause: FailureCause = SILENT) -> Job:
    now = utc_now(session)
    losses, lost_by = job.losses + 1, job.worker_id
    to = next_status(job)
    values: dict[str, Any] = {**status_values(job, to, now), "losses": losses}
    message = cause.message
    level: events.Level = "warning"
    if to == "queued" and losses >= max_losses:
        message = _too_often(losses, cause)
        error = replace(cause, message=message).document(
            spec=job.spec, stage=job.stage, fraction=job.progress["fraction"]
        )
        values = {**release_values(job, now), **NO_FLAGS, "losses": losses}
        values |= {"status": "failed", "error": error, "finished_at": now}
    if cause is SILENT:
        # Nobody knows when the worker went: the time since its last sign of life is not counted as work.
        values["stages"] = list(job.stages)
    guard = and_(Job.id == job.id, Job.status == "running", Job.attempt == job.attempt)
    changed = change_where(session, guard, **values)
    assert changed is not None, "the row is locked, so nobody else can have changed it"
    type_, text = {
        "queued": ("worker.lost", f"{message}; queued again."),
        "paused": ("job.paused", f"{message}; paused, as was asked."),
        "cancelled": ("job.cancelled", f"{message}; cancelled, as was asked."),
        "failed": ("job.failed", message),
    }[changed.status]
    data: dict[str, Any] = {"status": changed.status, "worker": lost_by, "losses": losses, "code": cause.code}
    if changed.error is not None and changed.status == "failed":
        data["error"] = in_short(changed.error)
        level = "error"
    events.record(session, changed.id, type_, text, level=level, data=data)
    return changed


def _too_often(losses: int, cause: FailureCause) -> str:
    if cause.code == WORKER_LOST:
        last = "" if cause is SILENT else f" {cause.message}."
        return f"Lost its worker {losses} times in a row without a new checkpoint in between.{last}"
    return f"{cause.message}, {losses} losses in a row without a new checkpoint in between."
