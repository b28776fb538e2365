"""References of jobs to their inputs: an input cannot be deleted while an unfinished job reads it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core.errors import InUse
from core.store.tables import TERMINAL_STATUSES, Job, JobReference


def require_unreferenced(session: Session, object_id: str, kind: str) -> None:
    """Raise ``InUse`` if an unfinished job reads the object, which this transaction has locked.

    Finished jobs that read it are marked: they can no longer be retried. Marking precedes the search for
    unfinished jobs, so a concurrent retry is either seen here or refused.
    """
    readers = select(JobReference.job_id).where(JobReference.object_id == object_id)
    session.execute(
        update(Job)
        .where(Job.id.in_(readers), Job.status.in_(TERMINAL_STATUSES), Job.missing_input.is_(None))
        .values(missing_input=object_id)
        .execution_options(synchronize_session=False)
    )
    unfinished = session.scalars(
        select(Job.id).where(Job.id.in_(readers), Job.status.not_in(TERMINAL_STATUSES)).order_by(Job.id).limit(5)
    ).all()
    if unfinished:
        raise InUse(
            f"This {kind} is in use by {', '.join(unfinished)}; cancel these jobs or let them finish first.",
            extra={"jobs": list(unfinished)},
        )
    session.execute(
        delete(JobReference).where(JobReference.object_id == object_id).execution_options(synchronize_session=False)
    )


def list_readers(session: Session, project_id: str, object_id: str, *, limit: int) -> Sequence[Job]:
    """List the project's jobs that read an object, finished ones too, newest first."""
    statement = (
        select(Job)
        .join(JobReference, JobReference.job_id == Job.id)
        .where(JobReference.object_id == object_id, JobReference.project_id == project_id)
    )
    return session.scalars(statement.order_by(Job.id.desc()).limit(limit)).all()
