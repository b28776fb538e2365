"""Whether what a job would ask its teachers was asked, and stored, by one that succeeded."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.store.tables import Event, Job

EVENT = "teacher.cached"  # the engine's, with what was asked and how many views of it
_LOOKED_AT = 1_000  # newest jobs of a dataset


def was_stored(session: Session, project_id: str, dataset_id: str, *, asked: str, views: int) -> bool:
    """Whether a job of the project has stored at least so many views of what is asked.

    Where a worker has evicted them since, or has another disk, they are asked again: this is about what was done.
    """
    told = session.scalars(
        select(Event.data)
        .join(Job, Job.id == Event.job_id)
        .where(
            Job.project_id == project_id,
            Job.dataset_id == dataset_id,
            Job.status == "succeeded",
            Event.type == EVENT,
        )
        .order_by(Job.id.desc(), Event.seq.desc())
        .limit(_LOOKED_AT)
    )
    return any(
        one.get("asked") == asked and one.get("stopped") is None and one.get("views", 0) >= views for one in told
    )
