"""Claims of queued jobs with a fair share between projects, and the end of attempts whose worker is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, union, union_all, update
from sqlalchemy.orm import Session

from core.errors import WorkerLost
from core.job_failure import WORKER_SILENT, FailureCause, event_fields
from core.store import checkpoints, counters, events, job_counts
from core.store.counters import LEASE_LOSSES, Observation
from core.store.db import utc_now
from core.store.job_leases import LeaseToken, change_where, lock_job
from core.store.jobs.row_values import NO_FLAGS, next_status, release_values, status_values
from core.store.project_tables import Project
from core.store.tables import Job, status_is

WORKER_LOST = WorkerLost.code


def claim(session: Session, *, worker_id: str, accelerator: Literal["cpu", "cuda"], lease_seconds: float) -> Job | None:
    """Claim the next queued job that this accelerator can run; None if there is none.

    Fair share: the project with the fewest running jobs comes first, then the one whose last claim is oldest. So no
    project can starve others, whatever its priorities. Within the project, the highest priority comes first, then the
    oldest job. The claim starts a new attempt, which invalidates all earlier ones, and pins an accelerator `auto`.
    """
    slots = queue_slots(session, accelerator)
    job_id = next((locked for slot in slots if (locked := _lock_oldest(session, slot))), None)
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
    if job is None:  # on PostgreSQL, the row changed between the read and the lock; the next claim finds another job
        return None
    session.execute(update(Project).where(Project.id == job.project_id).values(last_claimed_at=now))
    data = {"status": job.status, "attempt": job.attempt, "worker": worker_id, "accelerator": accelerator}
    events.record(session, job.id, "job.started", f"Attempt {job.attempt} started.", data=data)
    return job


@dataclass(frozen=True, slots=True)
class QueueSlot:
    """Queue of one project and one priority, the oldest job first."""

    accelerators: tuple[str, ...]
    project_id: str
    priority: int


def queue_slots(session: Session, accelerator: str) -> Iterator[QueueSlot]:
    """Iterate over the queues of waiting jobs in claim order.

    The cost grows with the number of waiting projects, not with that of jobs: index lookups read one job per queue.
    """
    accelerators = ("auto", accelerator)
    for project_id in _order_projects(session.execute(fair_share(accelerators)).all()):
        below: int | None = None
        while (priority := session.scalars(highest_priority(accelerators, project_id, below)).one()) is not None:
            yield QueueSlot(accelerators, project_id, priority)
            below = priority


def _order_projects(rows: Sequence[Any]) -> list[str]:
    """Order project ids by running jobs, then by last claim (never comes first), then by age of the project."""

    def sort_key(row: Any) -> tuple[int, float, str]:
        return row.running, row.last_claimed_at.timestamp() if row.last_claimed_at else 0.0, row.id

    return [row.id for row in sorted(rows, key=sort_key)]


def fair_share(accelerators: Sequence[str]) -> Select[Any]:
    """Select the projects that wait for any of these accelerators, with last claim and number of running jobs."""
    waits = union(*(_waiting_projects(accelerator) for accelerator in accelerators)).subquery("waits")
    running = select(func.count()).where(status_is("running"), Job.project_id == Project.id).scalar_subquery()
    return select(Project.id, Project.last_claimed_at, running.label("running")).join(
        waits, waits.c.project_id == Project.id
    )


def _waiting_projects(accelerator: str) -> Select[Any]:
    """Select the projects with queued jobs for this accelerator, by a loose index scan."""
    is_queued = (status_is("queued"), Job.accelerator == accelerator)
    first_id = select(func.min(Job.project_id).label("project_id")).where(*is_queued)
    waiting = first_id.cte(f"found_{accelerator}", recursive=True)
    next_id = select(func.min(Job.project_id)).where(*is_queued, Job.project_id > waiting.c.project_id)
    waiting = waiting.union_all(select(next_id.scalar_subquery()).where(waiting.c.project_id.is_not(None)))
    return select(waiting.c.project_id).where(waiting.c.project_id.is_not(None))


def highest_priority(accelerators: Sequence[str], project_id: str, below: int | None) -> Select[Any]:
    """Select the highest priority of a project's queued jobs for these accelerators; only ``below`` one if given."""
    per_accelerator = []
    for accelerator in accelerators:
        highest = select(func.max(Job.priority)).where(*_slot_filter(accelerator, project_id))
        highest = highest if below is None else highest.where(Job.priority < below)
        per_accelerator.append(select(highest.scalar_subquery().label("priority")))
    each = union_all(*per_accelerator).subquery("each")
    return select(func.max(each.c.priority))


def _slot_filter(accelerator: str, project_id: str) -> tuple[ColumnElement[bool], ...]:
    return (status_is("queued"), Job.accelerator == accelerator, Job.project_id == project_id)


def _lock_oldest(session: Session, slot: QueueSlot) -> str | None:
    """Lock the oldest job of a slot that no other transaction has locked; return its id, or None."""
    heads = []
    for accelerator in slot.accelerators:
        head = oldest_in_slot(slot, accelerator).with_for_update(skip_locked=True)
        heads += [(row.created_at, row.id) for row in session.execute(head)]
    return min(heads)[1] if heads else None


def oldest_in_slot(slot: QueueSlot, accelerator: str) -> Select[str, datetime]:
    """Select the oldest queued job of a slot."""
    return (
        select(Job.id, Job.created_at)
        .where(*_slot_filter(accelerator, slot.project_id), Job.priority == slot.priority)
        .order_by(Job.created_at, Job.id)
        .limit(1)
    )


def count_queued(session: Session) -> dict[str, int]:
    """Return the number of queued jobs by accelerator: `auto`, `cpu`, `cuda`."""
    return job_counts.count_queued(session)


def count_unfinished(session: Session) -> dict[tuple[str, ...], int]:
    """Return the number of queued and running jobs by (status, accelerator)."""
    return job_counts.count_unfinished(session)


def queue_ages(session: Session) -> dict[str, float]:
    """Return the age in seconds of the oldest queued job by accelerator, since its creation; 0 if none is queued.

    It reads all queued jobs in the partial index of the claims.
    """
    statement = select(Job.accelerator, func.min(Job.created_at)).where(status_is("queued")).group_by(Job.accelerator)
    now = utc_now(session)
    ages = {row[0]: max(0.0, (now - row[1]).total_seconds()) for row in session.execute(statement)}
    return {"auto": 0.0, "cpu": 0.0, "cuda": 0.0} | ages


def queued_accelerators(session: Session) -> frozenset[str]:
    """Return those of `auto`, `cpu` and `cuda` that queued jobs wait for, at a cost independent of their number."""
    accelerators = ("auto", "cpu", "cuda")
    # MIN(project_id) uses the partial index; EXISTS would scan the table.
    first_ids = [
        select(func.min(Job.project_id)).where(status_is("queued"), Job.accelerator == accelerator).scalar_subquery()
        for accelerator in accelerators
    ]
    row = session.execute(select(*first_ids)).one()
    return frozenset(accelerator for accelerator, first in zip(accelerators, row, strict=True) if first is not None)


def expire_leases(session: Session, max_worker_losses: int, *, worker_id: str | None = None) -> list[Job]:
    """End the attempts whose lease has expired; return their jobs in the new status.

    Each counts as a worker loss. A requested cancel or pause takes effect. A job with ``max_worker_losses`` since its
    last new checkpoint fails with `worker_lost`; others are requeued.
    ``worker_id``: also end the attempts of this worker, which is known to be dead, before their leases expire.
    """
    now = utc_now(session)
    is_lost: ColumnElement[bool] = or_(Job.lease_expires_at.is_(None), Job.lease_expires_at < now)
    if worker_id is not None:
        is_lost = or_(is_lost, Job.worker_id == worker_id)
    statement = (
        select(Job)
        .where(status_is("running"), is_lost)
        .order_by(Job.id)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return [_end_lost_attempt(session, job, max_worker_losses) for job in session.scalars(statement).all()]


def record_loss(session: Session, lease: LeaseToken, cause: FailureCause, max_worker_losses: int) -> Job:
    """End an attempt whose process is known to be dead, and count a worker loss.

    ``cause`` becomes the job's error if the limit of losses is reached. Raises ``LeaseLost``.
    """
    return _end_lost_attempt(session, lock_job(session, lease), max_worker_losses, cause)


def _end_lost_attempt(session: Session, job: Job, max_worker_losses: int, cause: FailureCause = WORKER_SILENT) -> Job:
    now = utc_now(session)
    losses, lost_worker_id = job.worker_losses + 1, job.worker_id
    status = next_status(job)
    values: dict[str, Any] = {**status_values(job, status, now), "worker_losses": losses}
    message = cause.message
    level: events.Level = "warning"
    if status == "queued" and losses >= max_worker_losses:
        message = _loss_limit_message(losses, cause)
        error = replace(cause, message=message).to_error(
            spec=job.spec,
            stage=job.stage,
            fraction=job.progress["fraction"],
            has_checkpoint=checkpoints.has_resumable(session, job.id),
        )
        values = {**release_values(job, now), **NO_FLAGS, "worker_losses": losses}
        values |= {"status": "failed", "error": error, "finished_at": now}
    if cause is WORKER_SILENT:
        # The time of the loss is unknown, so the time since the last heartbeat does not count as work.
        values["stages"] = list(job.stages)
    guard = and_(Job.id == job.id, Job.status == "running", Job.attempt == job.attempt)
    changed = change_where(session, guard, **values)
    assert changed is not None, "the row is locked by this transaction"
    counters.record(session, [Observation(LEASE_LOSSES, ("job", cause.code))])
    type_, text = {
        "queued": ("worker.lost", f"{message}; requeued."),
        "paused": ("job.paused", f"{message}; paused as requested."),
        "cancelled": ("job.cancelled", f"{message}; cancelled as requested."),
        "failed": ("job.failed", message),
    }[changed.status]
    data: dict[str, Any] = {"status": changed.status, "worker": lost_worker_id, "losses": losses, "code": cause.code}
    if changed.error is not None and changed.status == "failed":
        data["error"] = event_fields(changed.error)
        level = "error"
    events.record(session, changed.id, type_, text, level=level, data=data)
    return changed


def _loss_limit_message(losses: int, cause: FailureCause) -> str:
    if cause.code == WORKER_LOST:
        last = "" if cause is WORKER_SILENT else f" {cause.message}."
        return f"Lost its worker {losses} times in a row without a new checkpoint in between.{last}"
    return f"{cause.message}, {losses} losses in a row without a new checkpoint in between."
