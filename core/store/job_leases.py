"""Leases of jobs: only the worker with the current attempt may write for a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, TypeVar

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from core.store import counters, job_counts, job_metrics
from core.store.job_counts import Group
from core.store.tables import Job

Result = TypeVar("Result")

_COUNTED = frozenset({*Group._fields, "stages"})
_OLD_COLUMNS = tuple(dict.fromkeys((Job.project_id, Job.accelerator, *job_metrics.OLD_COLUMNS)))


class LeaseLost(Exception):
    """Another worker, or none, holds the job, dataset or model now; the caller must stop and write nothing."""


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """Fencing token of one attempt of a job; required by every write of a worker."""

    job_id: str
    attempt: int

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the token of a job that was just claimed."""
        return cls(job.id, job.attempt)


@dataclass(frozen=True, slots=True)
class Flags:
    """Requested actions of a running job."""

    cancel: bool
    pause: bool
    stop: bool


def lease_filter(lease: LeaseToken) -> tuple[ColumnElement[bool], ...]:
    """Condition of every statement of a worker: the job runs with this attempt."""
    return (Job.id == lease.job_id, Job.status == "running", Job.attempt == lease.attempt)


def lock_job(session: Session, lease: LeaseToken) -> Job:
    """Load the job and lock its row until the transaction ends. Raises :class:`LeaseLost`."""
    statement = select(Job).where(*lease_filter(lease)).with_for_update().execution_options(populate_existing=True)
    return require_lease(session.scalars(statement).one_or_none(), lease)


def read_job(session: Session, lease: LeaseToken) -> Job:
    """Load the job without a lock. Raises :class:`LeaseLost`."""
    statement = select(Job).where(*lease_filter(lease)).execution_options(populate_existing=True)
    return require_lease(session.scalars(statement).one_or_none(), lease)


def change(session: Session, lease: LeaseToken, **values: Any) -> Job:
    """Update the job in one guarded statement. Raises :class:`LeaseLost`."""
    return require_lease(change_where(session, *lease_filter(lease), **values), lease)


def require_lease(result: Result | None, lease: LeaseToken) -> Result:
    """Return the result of a guarded statement. Raises :class:`LeaseLost` if no row matched."""
    if result is None:
        raise LeaseLost(f"attempt {lease.attempt} no longer holds {lease.job_id}")
    return result


def change_where(session: Session, *guard: ColumnElement[bool], **values: Any) -> Job | None:
    """Update the job that matches ``guard``, the counts of jobs and the metrics; return None if no job matches."""
    old: Any = None
    if not values.keys().isdisjoint(_COUNTED):
        old = session.execute(select(*_OLD_COLUMNS).where(*guard).with_for_update()).one_or_none()
        if old is None:
            return None
    statement = (
        update(Job)
        .where(*guard)
        .values(**values)
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    job = session.scalars(statement).one_or_none()
    if job is not None and old is not None:
        job_counts.move(session, Group.of_job(old), Group.of_job(job))
        counters.record(session, job_metrics.observe_change(old, job))
    return job
