"""How long a job has run, by its own log: from the start of each attempt to what ended it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.store.db import utc_now
from core.store.events import TERMINAL_TYPES
from core.store.tables import Event

_BEGINS = "job.started"
_ENDS = frozenset({"job.queued", "job.paused", "worker.lost"}) | TERMINAL_TYPES


def running_seconds(session: Session, job_id: str) -> float:
    """The time that workers have had the job, all attempts together, up to now for one that runs.

    Waits and pauses do not count. A worker that was lost had the job until that was noticed.
    """
    statement = select(Event.type, Event.created_at).where(Event.job_id == job_id, Event.type.in_({_BEGINS, *_ENDS}))
    total, began = 0.0, None
    for type_, moment in session.execute(statement.order_by(Event.seq)):
        if began is not None:
            total += _between(began, moment)
        began = moment if type_ == _BEGINS else None
    return total if began is None else total + _between(began, utc_now(session))


def _between(began: datetime, ended: datetime) -> float:
    return max(0.0, (ended - began).total_seconds())
