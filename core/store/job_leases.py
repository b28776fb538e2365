"""Who may write for a job: the worker whose attempt it is, and nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from core.store.tables import Job


class LeaseLost(Exception):
    """The job, dataset or model belongs to somebody else by now, or to nobody; write nothing more and leave."""


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """The fencing token of one attempt at a job; every write of a worker needs it."""

    job_id: str
    attempt: int

    @classmethod
    def of(cls, job: Job) -> Self:
        """The token of a job that was just claimed."""
        return cls(job.id, job.attempt)


@dataclass(frozen=True, slots=True)
class Flags:
    """What was asked of a running job."""

    cancel: bool
    pause: bool
    stop: bool


def lease_filter(attempt: LeaseToken) -> tuple[ColumnElement[bool], ...]:
    """The guard of every statement of a worker: the job runs, and by this attempt."""
    return (Job.id == attempt.job_id, Job.status == "running", Job.attempt == attempt.attempt)


def lock_job(session: Session, attempt: LeaseToken) -> Job:
    """Load the job and keep everybody else from changing it until the transaction ends.

    Raises :class:`LeaseLost`.
    """
    statement = select(Job).where(*lease_filter(attempt)).with_for_update().execution_options(populate_existing=True)
    job = session.scalars(statement).one_or_none()
    if job is None:
        raise LeaseLost(f"{attempt.job_id} is not held by attempt {attempt.attempt} any more")
    return job


def read_job(session: Session, attempt: LeaseToken) -> Job:
    """Load the job without keeping anybody from changing it. Raises :class:`LeaseLost`."""
    statement = select(Job).where(*lease_filter(attempt)).execution_options(populate_existing=True)
    job = session.scalars(statement).one_or_none()
    if job is None:
        raise LeaseLost(f"{attempt.job_id} is not held by attempt {attempt.attempt} any more")
    return job


def change(session: Session, attempt: LeaseToken, **values: Any) -> Job:
    """Change the job in one guarded statement. Raises :class:`LeaseLost`."""
    job = change_where(session, *lease_filter(attempt), **values)
    if job is None:
        raise LeaseLost(f"{attempt.job_id} is not held by attempt {attempt.attempt} any more")
    return job


def change_where(session: Session, *guard: ColumnElement[bool], **values: Any) -> Job | None:
    """Change the one job that the guard lets through; None where it lets none through."""
    statement = (
        update(Job)
        .where(*guard)
        .values(**values)
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    return session.scalars(statement).one_or_none()
