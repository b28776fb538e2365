"""The end of a sweep: recorded once, in the transaction that ends its last job.

Lock order: a transaction locks its jobs first and the sweep afterwards, so that two jobs that end at the same time see
each other: the second one waits for the sweep, and then counts the first one as ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.store.db import utc_now
from core.store.sweep_tables import Sweep
from core.store.tables import TERMINAL_STATUSES, Event, Job
from core.store.webhooks import outbox

STATUSES = ("queued", "running", "paused", *TERMINAL_STATUSES)

Counts = Mapping[str, int]  # number of jobs by status; every status is a key


def count_jobs(session: Session, sweep_ids: Collection[str]) -> dict[str, Counts]:
    """Return the number of jobs by status for each sweep."""
    statement = (
        select(Job.sweep_id, Job.status, func.count())
        .where(Job.sweep_id.in_(sweep_ids))
        .group_by(Job.sweep_id, Job.status)
    )
    counts = {sweep_id: dict.fromkeys(STATUSES, 0) for sweep_id in sweep_ids}
    for sweep_id, status, num_jobs in session.execute(statement):
        counts[str(sweep_id)][status] = num_jobs
    return dict(counts)


def is_finished(counts: Counts) -> bool:
    """Whether all jobs of a sweep have ended."""
    return not any(counts[status] for status in STATUSES if status not in TERMINAL_STATUSES)


def follow_event(session: Session, event: Event, job: Job) -> None:
    """Record the end of a job's sweep if the event ends its last job; a retry starts the sweep again."""
    if job.sweep_id is None or not (job.is_terminal or event.type == "job.retried"):
        return
    locked = select(Sweep).where(Sweep.id == job.sweep_id).with_for_update().execution_options(populate_existing=True)
    sweep = session.scalars(locked).one_or_none()
    if sweep is None:
        return
    counts = count_jobs(session, [sweep.id])[sweep.id]
    was_finished = sweep.finished_at is not None
    if is_finished(counts) == was_finished:
        return
    sweep.finished_at = None if was_finished else utc_now(session)
    session.flush()
    if not was_finished:
        outbox.add_sweep_end(session, sweep, counts)
