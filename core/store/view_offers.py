"""Views of running jobs whose teacher outputs idle workers may compute.

A row only announces the work: the claims and digests in the cache folder decide which process computes a shard. The
kernel ends the claim of a killed worker, and another process computes its shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, exists, select, update
from sqlalchemy.orm import Session

from core.reporting import ViewOffer
from core.store import events
from core.store.db import insert_or_conflict, utc_now
from core.store.job_leases import LeaseLost, LeaseToken, lease_filter, lock_job
from core.store.jobs import queued_accelerators
from core.store.tables import Job, status_is
from core.store.view_offer_tables import OfferedViews

MAX_FAILURES = 3  # of processes per attempt, after which its views are not claimed any more


@dataclass(frozen=True, slots=True)
class ClaimedOffer:
    """An offer that a worker took. ``id`` names the scratch folder of this worker, not of the job's."""

    id: str
    job: Job
    attempt: int
    views_key: str
    next_view: int
    num_shards: int  # missing ones for which no worker has come yet

    @property
    def lease(self) -> LeaseToken:
        """The attempt of the job that offered the views."""
        return LeaseToken(self.job.id, self.attempt)


def offer(session: Session, lease: LeaseToken, views: ViewOffer, *, cache_id: str) -> None:
    """Save the offer of an attempt in place of its last one. Raises ``LeaseLost``."""
    job = lock_job(session, lease)
    row = session.get(OfferedViews, job.id)
    is_same = row is not None and row.attempt == lease.attempt and row.views_key == views.views_key
    if row is not None and is_same:
        row.next_view, row.num_shards = views.next_view, views.num_shards
        return
    new = {
        "project_id": job.project_id,
        "attempt": lease.attempt,
        "accelerator": job.accelerator,
        "cache_id": cache_id,
        "views_key": views.views_key,
        "next_view": views.next_view,
        "num_views": views.num_views,
        "num_shards": views.num_shards,
        "failures": 0,
        "created_at": utc_now(session),
    }
    session.execute(
        insert_or_conflict(session, OfferedViews)
        .values(job_id=job.id, **new)
        .on_conflict_do_update(index_elements=["job_id"], set_=new)
    )


def claim(session: Session, *, worker_id: str, accelerator: str, cache_id: str) -> ClaimedOffer | None:
    """Take the oldest offer to workers of this accelerator and cache folder; None if there is none.

    Any number of workers may take an offer, up to one per missing shard.
    """
    found = (
        select(OfferedViews)
        .join(Job, Job.id == OfferedViews.job_id)
        .where(
            status_is("running"),
            Job.attempt == OfferedViews.attempt,
            OfferedViews.accelerator == accelerator,
            OfferedViews.cache_id == cache_id,
            *_is_open(),
        )
        .order_by(OfferedViews.created_at, OfferedViews.job_id)
        .limit(1)
    )
    row = session.scalars(found).one_or_none()
    if row is None:
        return None
    try:
        job = lock_job(session, LeaseToken(row.job_id, row.attempt))
    except LeaseLost:  # the attempt ended since the read
        return None
    session.refresh(row)  # another worker may have taken it before the lock
    if row.num_shards < 1:
        return None
    row.num_shards -= 1
    message = f"Worker {worker_id} computes teacher outputs for the training."
    data = {"worker": worker_id, "next_view": row.next_view, "views": row.num_views, "shards": row.num_shards + 1}
    events.record(session, job.id, "teacher_cache.worker_joined", message, data=data)
    return ClaimedOffer(f"{job.id}-{worker_id}", job, row.attempt, row.views_key, row.next_view, row.num_shards)


def close(session: Session, claimed: ClaimedOffer) -> None:
    """Withdraw an offer of which a worker has found no more shard to compute."""
    session.execute(
        update(OfferedViews)
        .where(
            OfferedViews.job_id == claimed.job.id,
            OfferedViews.attempt == claimed.attempt,
            OfferedViews.views_key == claimed.views_key,
        )
        .values(num_shards=0)
    )


def is_wanted(session: Session, claimed: ClaimedOffer) -> bool:
    """Whether no queued job needs this worker. Raises ``LeaseLost`` if the attempt that offered the views ended."""
    if session.execute(select(Job.id).where(*lease_filter(claimed.lease))).one_or_none() is None:
        raise LeaseLost(f"attempt {claimed.attempt} of {claimed.job.id} ended")
    return not queued_accelerators(session) & {"auto", claimed.job.accelerator}


def record_failure(session: Session, claimed: ClaimedOffer) -> None:
    """Count a process that could not compute views of an offer."""
    session.execute(
        update(OfferedViews)
        .where(OfferedViews.job_id == claimed.job.id, OfferedViews.attempt == claimed.attempt)
        .values(failures=OfferedViews.failures + 1)
    )


def prune(session: Session) -> int:
    """Delete the offers of attempts that ended; return their number."""
    is_running = exists().where(
        status_is("running"), Job.id == OfferedViews.job_id, Job.attempt == OfferedViews.attempt
    )
    return len(session.scalars(delete(OfferedViews).where(~is_running).returning(OfferedViews.job_id)).all())


def _is_open() -> Iterator[ColumnElement[bool]]:
    yield OfferedViews.num_shards > 0
    yield OfferedViews.failures < MAX_FAILURES
