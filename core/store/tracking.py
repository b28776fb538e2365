"""Tracking: each job that starts is reported to the tracking server, if the deployment has one.

The scheduler knows the server from its settings and enables the integration here. The events of jobs, which all
processes write, then make the job's task due in the same transaction. So no end of a job is lost, whatever is killed.
"""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.store import outbound
from core.store.db import insert_or_conflict, utc_now
from core.store.outbound_tables import Integration, OutboundTask
from core.store.tables import Job

_KIND = "tracking"
_EVENTS = frozenset({"job.started", "job.retried", "job.succeeded", "job.failed", "job.cancelled"})


def enable(session: Session, *, enabled: bool) -> None:
    """Report the jobs that start from now on, or no further ones."""
    if enabled:
        row = {"kind": _KIND, "enabled_at": utc_now(session)}
        session.execute(insert_or_conflict(session, Integration).values(**row).on_conflict_do_nothing())
    else:
        session.execute(delete(Integration).where(Integration.kind == _KIND))


def wake(session: Session, event_type: str, job: Job) -> None:
    """Make the task of a locked job due: at its start, where it is added, at a retry, and at its end."""
    if event_type not in _EVENTS or session.get(Integration, _KIND) is None:
        return
    statement = select(OutboundTask).where(OutboundTask.job_id == job.id, OutboundTask.kind == _KIND)
    task = session.scalars(statement.with_for_update().execution_options(populate_existing=True)).one_or_none()
    if task is None:
        if event_type == "job.started":
            outbound.add(session, job, "tracking", {}, task_id=outbound.new_task_id("tracking"))
        return
    task.generation += 1  # an attempt that runs now has read the job before this event
    task.status, task.finished_at, task.next_attempt_at = "pending", None, utc_now(session)
    session.flush()
