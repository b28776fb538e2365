"""What a job reads cannot be deleted while it may still read it."""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core.errors import InUse
from core.store.tables import TERMINAL, Job, JobReference


def require_unreferenced(session: Session, object_id: str, what: str) -> None:
    """Allow an object, locked by this transaction, to be deleted, or raise ``InUse``.

    Finished jobs that read it are marked: they cannot be retried any more. They are marked before the
    unfinished ones are looked for, so that a retry at the same time is either seen or refused.
    """
    readers = select(JobReference.job_id).where(JobReference.object_id == object_id)
    session.execute(
        update(Job)
        .where(Job.id.in_(readers), Job.status.in_(TERMINAL), Job.missing_input.is_(None))
        .values(missing_input=object_id)
        .execution_options(synchronize_session=False)
    )
    unfinished = session.scalars(
        select(Job.id).where(Job.id.in_(readers), Job.status.not_in(TERMINAL)).order_by(Job.id).limit(5)
    ).all()
    if unfinished:
        raise InUse(
            f"This {what} is still needed by {', '.join(unfinished)}; cancel or finish that first.",
            extra={"jobs": list(unfinished)},
        )
    session.execute(
        delete(JobReference).where(JobReference.object_id == object_id).execution_options(synchronize_session=False)
    )
