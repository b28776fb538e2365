"""Sweeps: jobs that were created together and differ in a few fields.

A sweep has no state of its own beyond ``finished_at``: its status follows from its jobs
(``core.store.sweep_progress``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session

from core.ids import new_id
from core.store import jobs
from core.store.db import utc_now
from core.store.pagination import Page, not_found, paginate_newest_first, require_id
from core.store.sweep_tables import Sweep
from core.store.tables import TERMINAL_STATUSES, Job

JobRow = Row[Any]  # the columns of :func:`list_jobs`


def create(
    session: Session,
    project_id: str,
    *,
    name: str | None,
    spec: Mapping[str, Any],
    grid: Mapping[str, Any],
    points: Sequence[Any],
    fields: Sequence[str],
    num_jobs: int,
) -> Sweep:
    """Create a sweep. The caller adds its jobs in the same transaction."""
    sweep = Sweep(
        id=new_id("swp"),
        project_id=project_id,
        name=name,
        spec=dict(spec),
        grid=dict(grid),
        points=list(points),
        fields=list(fields),
        num_jobs=num_jobs,
        created_at=utc_now(session),
    )
    session.add(sweep)
    session.flush()
    return sweep


def get(session: Session, project_id: str, sweep_id: str) -> Sweep:
    """Load a sweep of the project. Raises ``NotFound``."""
    require_id(sweep_id, "swp", "sweep")
    sweep = session.scalars(select(Sweep).where(Sweep.id == sweep_id, Sweep.project_id == project_id)).one_or_none()
    if sweep is None:
        raise not_found("sweep", sweep_id)
    return sweep


def list_sweeps(session: Session, project_id: str, *, limit: int = 20, after: str | None = None) -> Page[Sweep]:
    """List the project's sweeps, newest first."""
    statement = select(Sweep).where(Sweep.project_id == project_id)
    return paginate_newest_first(session, statement, Sweep.id, limit=limit, after=after, prefix="swp")


def list_jobs(session: Session, sweep_id: str) -> list[JobRow]:
    """Return the jobs of a sweep by their number, without specs and warnings."""
    columns = (Job.id, Job.name, Job.status, Job.stage, Job.dataset_id, Job.progress, Job.result, Job.error)
    statement = select(*columns, Job.started_at, Job.finished_at, Job.sweep_point).where(Job.sweep_id == sweep_id)
    return sorted(session.execute(statement).all(), key=lambda row: int(row.sweep_point["number"]))


def running_fractions(session: Session, sweep_ids: Collection[str]) -> dict[str, float]:
    """Return the sum of the progress fractions of each sweep's unfinished jobs."""
    statement = select(Job.sweep_id, Job.progress).where(
        Job.sweep_id.in_(sweep_ids), Job.status.not_in(TERMINAL_STATUSES)
    )
    sums = dict.fromkeys(sweep_ids, 0.0)
    for sweep_id, progress in session.execute(statement):
        sums[sweep_id] += progress["fraction"]
    return sums


def cancel(session: Session, project_id: str, sweep_id: str) -> list[Job]:
    """Cancel all unfinished jobs of a sweep; return them. Raises ``NotFound``."""
    get(session, project_id, sweep_id)
    unfinished = [job_id for job_id, status in _lock_jobs(session, sweep_id) if status not in TERMINAL_STATUSES]
    return [jobs.cancel(session, project_id, job_id) for job_id in unfinished]


def delete(session: Session, project_id: str, sweep_id: str) -> None:
    """Delete a sweep; its jobs stay. Raises ``NotFound``."""
    get(session, project_id, sweep_id)
    _lock_jobs(session, sweep_id)
    leave = update(Job).where(Job.sweep_id == sweep_id).values(sweep_id=None, sweep_point=None)
    session.execute(leave.execution_options(synchronize_session=False))
    session.execute(sql_delete(Sweep).where(Sweep.id == sweep_id).execution_options(synchronize_session=False))


def _lock_jobs(session: Session, sweep_id: str) -> Sequence[Row[str, str]]:
    """Lock the jobs of a sweep in the order of their ids; return their ids and statuses."""
    statement = select(Job.id, Job.status).where(Job.sweep_id == sweep_id).order_by(Job.id).with_for_update()
    return session.execute(statement).all()
