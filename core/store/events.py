"""Events of a job. ``seq`` counts from 1 without gaps: the transaction that writes the event increments it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.ids import new_id
from core.store import counters, job_metrics, tracking
from core.store.db import utc_now
from core.store.job_leases import LeaseToken, change_where, lock_job
from core.store.pagination import Page
from core.store.sweep_progress import follow_event
from core.store.tables import Event, Job
from core.store.webhooks import outbox

Level = Literal["info", "warning", "error"]

TERMINAL_TYPES = frozenset({"job.succeeded", "job.failed", "job.cancelled"})


def append(
    session: Session,
    lease: LeaseToken,
    type: str,  # noqa: A002 - the wire's word
    message: str,
    *,
    level: Level = "info",
    data: Mapping[str, Any] | None = None,
) -> Event:
    """Add an event that a worker reports. Raises :class:`~core.store.job_leases.LeaseLost`."""
    lock_job(session, lease)
    counters.record(session, job_metrics.observe_event(type, data or {}))
    return record(session, lease.job_id, type, message, level=level, data=data)


def record(
    session: Session,
    job_id: str,
    type: str,  # noqa: A002 - the wire's word
    message: str,
    *,
    level: Level = "info",
    data: Mapping[str, Any] | None = None,
) -> Event:
    """Add an event to a job that this transaction has already changed or locked; internal to the store."""
    job = change_where(session, Job.id == job_id, last_seq=Job.last_seq + 1)
    assert job is not None, job_id
    event = Event(
        job_id=job.id,
        seq=job.last_seq,
        id=new_id("evt"),
        project_id=job.project_id,
        type=type,
        level=level,
        message=message,
        data=dict(data or {}),
        attempt=job.attempt,
        created_at=utc_now(session),
    )
    session.add(event)
    session.flush()
    outbox.add_event(session, event, job)
    follow_event(session, event, job)
    tracking.wake(session, event.type, job)
    return event


def list_events(
    session: Session, project_id: str, job_id: str, *, after_seq: int = 0, limit: int | None = None
) -> Page[Event]:
    """List the events after ``after_seq``, ascending; none for a job of another project."""
    statement = (
        select(Event)
        .where(Event.project_id == project_id, Event.job_id == job_id, Event.seq > after_seq)
        .order_by(Event.seq)
    )
    if limit is None:
        return Page(session.scalars(statement).all(), has_more=False)
    rows = session.scalars(statement.limit(limit + 1)).all()
    return Page(rows[:limit], len(rows) > limit)


def find_seq(session: Session, project_id: str, job_id: str, event_id: str) -> int | None:
    """Return the ``seq`` of an event; None if it does not exist."""
    return session.scalars(
        select(Event.seq).where(Event.project_id == project_id, Event.job_id == job_id, Event.id == event_id)
    ).one_or_none()
