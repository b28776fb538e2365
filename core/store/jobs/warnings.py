"""Events of a job's warnings."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from core.job_warnings import JobWarning
from core.store import events


def record_warnings(session: Session, job_id: str, warnings: Iterable[JobWarning]) -> None:
    """Add an event for each warning to a job that this transaction has already changed or locked."""
    for warning in warnings:
        data = warning.model_dump(mode="json")
        events.record(session, job_id, "job.warning", warning.text, level="warning", data=data)
