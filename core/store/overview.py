"""Counts over all projects, for operators: Prometheus and the scheduler."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.store.tables import TERMINAL, Dataset, Job, Model


def jobs_by_status(session: Session) -> dict[str, int]:
    """How many jobs there are of each status; every status is named."""
    found = {row[0]: row[1] for row in session.execute(select(Job.status, func.count()).group_by(Job.status))}
    return {status: found.get(status, 0) for status in ("queued", "running", "paused", *TERMINAL)}


def waiting_uploads(session: Session) -> dict[str, int]:
    """How many datasets and models are not ready yet."""
    counts = {}
    for what, table in (("datasets", Dataset), ("models", Model)):
        waiting = select(func.count()).select_from(table).where(table.status == "processing")
        counts[what] = session.scalars(waiting).one()
    return counts
