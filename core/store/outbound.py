"""Tasks on other services: claimed under a lease, run by the scheduler, and recorded under the same attempt.

A process that dies during an attempt loses its lease, and the task is attempted again with the ``state`` that was
saved last. Each kind of task finds out what the interrupted attempt has done, so nothing is done twice.

Lock order: job, then task.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, case, func, literal_column, or_, select, update
from sqlalchemy.orm import Session

from core.ids import new_id
from core.store.db import utc_now
from core.store.outbound_tables import OutboundTask
from core.store.tables import Job

Kind = Literal["push", "tracking"]

FIRST_RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 3600.0
MAX_IN_FLIGHT = 2  # tasks of one project that run at once, so that no project delays others
_MAX_JITTER = 0.1  # fraction of a delay


class TaskLost(Exception):
    """Another process has the task, or its job is deleted; the attempt must end."""


@dataclass(frozen=True, slots=True)
class ClaimedTask:
    """A task to run. ``attempt`` is its fencing token.

    ``is_repeated``: the attempt before did not end with success, so what it has done is not in ``state``.
    """

    id: str
    project_id: str
    job_id: str
    kind: Kind
    attempt: int
    generation: int
    num_failures: int
    is_repeated: bool
    target: Mapping[str, Any]
    state: Mapping[str, Any]
    secret: str | None
    created_at: datetime


def add(
    session: Session, job: Job, kind: Kind, target: Mapping[str, Any], *, task_id: str, secret: str | None = None
) -> OutboundTask:
    """Add a task that is due now."""
    now = utc_now(session)
    task = OutboundTask(
        id=task_id,
        project_id=job.project_id,
        job_id=job.id,
        kind=kind,
        target=dict(target),
        secret=secret,
        state={},
        status="pending",
        attempt=0,
        num_failures=0,
        generation=0,
        next_attempt_at=now,
        created_at=now,
    )
    session.add(task)
    session.flush()
    return task


def count_due(session: Session, now: datetime, kinds: Collection[Kind], *, limit: int) -> int:
    """Count the tasks of these kinds that are due and not being run, up to ``limit``."""
    due = select(OutboundTask.id).where(*_due(now, kinds)).limit(limit)
    return session.scalars(select(func.count()).select_from(due.subquery())).one()


def claim(session: Session, now: datetime, kinds: Collection[Kind], *, lease_seconds: float) -> ClaimedTask | None:
    """Claim the task of these kinds that is due for the longest time, of a project with free capacity, if any."""
    in_flight = (
        select(OutboundTask.project_id)
        .where(_is_pending(), OutboundTask.lease_expires_at > now)
        .group_by(OutboundTask.project_id)
        .having(func.count() >= MAX_IN_FLIGHT)
    )
    task = session.scalars(
        select(OutboundTask)
        .where(*_due(now, kinds), OutboundTask.project_id.not_in(in_flight))
        .order_by(OutboundTask.next_attempt_at, OutboundTask.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if task is None:
        return None
    is_repeated = task.num_failures > 0 or task.lease_expires_at is not None
    task.attempt += 1
    task.lease_expires_at = now + timedelta(seconds=lease_seconds)
    session.flush()
    return ClaimedTask(
        id=task.id,
        project_id=task.project_id,
        job_id=task.job_id,
        kind=task.kind,  # type: ignore[arg-type]  # the table's check
        attempt=task.attempt,
        generation=task.generation,
        num_failures=task.num_failures,
        is_repeated=is_repeated,
        target=task.target,
        state=task.state,
        secret=task.secret,
        created_at=task.created_at,
    )


def save(
    session: Session, claimed: ClaimedTask, now: datetime, *, state: Mapping[str, Any] | None, lease_seconds: float
) -> None:
    """Renew the lease, and save what the attempt has done so far. Raises :class:`TaskLost`."""
    values: dict[str, Any] = {"lease_expires_at": now + timedelta(seconds=lease_seconds)}
    if state is not None:
        values["state"] = dict(state)
    changed = session.execute(
        update(OutboundTask)
        .where(*_held(claimed))
        .values(**values)
        .returning(OutboundTask.id)
        .execution_options(synchronize_session=False)
    )
    if changed.one_or_none() is None:
        raise TaskLost


def lock_held(session: Session, claimed: ClaimedTask) -> tuple[Job, OutboundTask]:
    """Lock the job and the task of an attempt. Raises :class:`TaskLost`."""
    job = session.scalars(select(Job).where(Job.id == claimed.job_id).with_for_update(key_share=True)).one_or_none()
    task = session.scalars(
        select(OutboundTask).where(*_held(claimed)).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()
    if job is None or task is None:
        raise TaskLost
    return job, task


def is_unchanged(task: OutboundTask, claimed: ClaimedTask) -> bool:
    """Whether no event has made the task due since it was claimed."""
    return task.generation == claimed.generation


def reschedule(session: Session, task: OutboundTask, at: datetime) -> None:
    """Release a locked task until ``at``, after an attempt that succeeded."""
    task.num_failures, task.error = 0, None
    task.lease_expires_at, task.next_attempt_at = None, at
    session.flush()


def retry_later(session: Session, task: OutboundTask, error: Mapping[str, str], now: datetime) -> None:
    """Release a locked task after a failed attempt; the delays double up to an hour."""
    seconds = min(FIRST_RETRY_SECONDS * 2.0 ** min(task.num_failures, 16), MAX_RETRY_SECONDS)
    # Jitter from the id, so that tasks that failed together are not repeated together.
    jitter = zlib.crc32(f"{task.id}:{task.num_failures}".encode()) / 2**32
    task.num_failures += 1
    task.error = dict(error)
    task.lease_expires_at = None
    task.next_attempt_at = now + timedelta(seconds=seconds * (1 + _MAX_JITTER * jitter))
    session.flush()


def finish(
    session: Session,
    task: OutboundTask,
    now: datetime,
    *,
    result: Mapping[str, Any] | None = None,
    error: Mapping[str, str] | None = None,
) -> None:
    """End a locked task, and delete its secret. It succeeded if there is no ``error``."""
    task.status = "succeeded" if error is None else "failed"
    task.result = None if result is None else dict(result)
    task.error = None if error is None else dict(error)
    task.secret, task.lease_expires_at, task.next_attempt_at, task.finished_at = None, None, None, now
    session.flush()


def new_task_id(kind: Kind) -> str:
    """Return a new id of a task."""
    return new_id("push" if kind == "push" else "trk")


def count_pending(session: Session) -> dict[tuple[str, ...], int]:
    """Count the pending tasks of all projects by kind and state: ``waiting``, or ``failing`` after a failed attempt."""
    state = case((OutboundTask.num_failures > 0, "failing"), else_="waiting").label("state")
    statement = select(OutboundTask.kind, state, func.count()).where(_is_pending()).group_by(OutboundTask.kind, state)
    return {(row[0], row[1]): row[2] for row in session.execute(statement)}


# --- internal ---------------------------------------------------------------------------------------


def _is_pending() -> ColumnElement[bool]:
    """Condition with a literal, so that the partial index applies."""
    return OutboundTask.status == literal_column("'pending'")


def _due(now: datetime, kinds: Collection[Kind]) -> tuple[ColumnElement[bool], ...]:
    is_free = or_(OutboundTask.lease_expires_at.is_(None), OutboundTask.lease_expires_at <= now)
    return (_is_pending(), OutboundTask.kind.in_(kinds), OutboundTask.next_attempt_at <= now, is_free)


def _held(claimed: ClaimedTask) -> tuple[ColumnElement[bool], ...]:
    return (OutboundTask.id == claimed.id, OutboundTask.attempt == claimed.attempt, _is_pending())
