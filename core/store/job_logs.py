"""Log lines of jobs' processes: the worker saves the last ones while an attempt runs, and once more at its end."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.store.db import insert_or_conflict, utc_now
from core.store.job_leases import LeaseToken
from core.store.job_log_tables import JobLog
from core.store.tables import Job


def save(session: Session, lease: LeaseToken, lines: Sequence[str]) -> None:
    """Replace the lines of a job by those of an attempt. No effect on a deleted job, or if a newer attempt runs.

    The attempt may have ended: its last lines are saved after its result.
    """
    found = select(Job.project_id, Job.attempt).where(Job.id == lease.job_id)
    job = session.execute(found.with_for_update(read=True, key_share=True)).one_or_none()
    if job is None or job.attempt != lease.attempt:
        return
    values = {
        "project_id": job.project_id,
        "attempt": lease.attempt,
        "lines": list(lines),
        "updated_at": utc_now(session),
    }
    session.execute(
        insert_or_conflict(session, JobLog)
        .values(job_id=lease.job_id, **values)
        .on_conflict_do_update(index_elements=["job_id"], set_=values)
    )


def get(session: Session, project_id: str, job_id: str) -> JobLog | None:
    """Load the lines of a job; None if no attempt has logged any."""
    return session.scalars(select(JobLog).where(JobLog.job_id == job_id, JobLog.project_id == project_id)).one_or_none()
