"""What the worker that holds a job may do with it. Everything here raises ``LeaseLost`` for anybody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.job_failure import in_short
from core.reporting import Control, Interrupted, Progress
from core.store import checkpoints, events
from core.store.artifact_store import StoredFile
from core.store.db import utc_now
from core.store.job_leases import Flags, LeaseLost, LeaseToken, change, lease_filter, lock_job, read_job
from core.store.jobs.row_values import (
    NO_FLAGS,
    next_status,
    release_values,
    stages_entered,
    stages_left,
    stamp,
    status_values,
)
from core.store.quotas import add_stored
from core.store.tables import Artifact, Job


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """A file that a job hands out: published, read back, hashed."""

    name: str
    media_type: str
    file: StoredFile


def current(session: Session, attempt: LeaseToken) -> Job:
    """The job as it is now, read only."""
    return read_job(session, attempt)


def flags(session: Session, attempt: LeaseToken) -> Flags:
    """What was asked of the job; one small read, in a unit of work that only reads."""
    columns = select(Job.cancel_requested, Job.pause_requested, Job.stop_requested)
    row = session.execute(columns.where(*lease_filter(attempt))).one_or_none()
    if row is None:
        raise LeaseLost(f"{attempt.job_id} is not held by attempt {attempt.attempt} any more")
    return Flags(cancel=row[0], pause=row[1], stop=row[2])


def renew_lease(session: Session, attempt: LeaseToken, lease_seconds: float) -> Flags:
    """Renew the lease and return what was asked of the job."""
    job = change(session, attempt, lease_expires_at=utc_now(session) + timedelta(seconds=lease_seconds))
    return Flags(cancel=job.cancel_requested, pause=job.pause_requested, stop=job.stop_requested)


def set_spec(session: Session, attempt: LeaseToken, spec: Mapping[str, Any], *, total_steps: int | None = None) -> Job:
    """Keep the spec with every default filled in."""
    job = lock_job(session, attempt)
    progress = {**job.progress, "total_steps": total_steps or job.progress["total_steps"]}
    changed = change(session, attempt, spec=dict(spec), resolved=True, progress=progress)
    events.record(session, job.id, "job.resolved", "Every default of the spec is filled in.")
    return changed


def start_stage(session: Session, attempt: LeaseToken, stage: str) -> Job:
    """Enter a stage, for the first time or again."""
    job = lock_job(session, attempt)
    now = utc_now(session)
    changed = change(session, attempt, stage=stage, stage_entered_at=now, stages=stages_entered(job, stage, now))
    events.record(session, job.id, "stage.started", f"Stage {stage} started.", data={"stage": stage})
    return changed


def finish_stage(session: Session, attempt: LeaseToken, stage: str) -> Job:
    """Leave a stage whose product is kept. ``seconds`` counts the work of all attempts, without the pauses."""
    job = lock_job(session, attempt)
    now = utc_now(session)
    stages = [
        {**one, "finished_at": stamp(now), "seconds": one["seconds"] or 0.0} if one["name"] == stage else one
        for one in stages_left(job, now)
    ]
    changed = change(session, attempt, stages=stages, stage_entered_at=None)
    seconds = next((one["seconds"] for one in stages if one["name"] == stage), None)
    data = {"stage": stage, "seconds": seconds}
    events.record(session, job.id, "stage.finished", f"Stage {stage} finished.", data=data)
    return changed


def record_progress(session: Session, attempt: LeaseToken, progress: Progress) -> Job:
    """Keep how far the job is. Its step never falls below that of its newest checkpoint."""
    job = lock_job(session, attempt)
    values = asdict(progress)
    values["fraction"] = min(1.0, max(0.0, progress.fraction))
    if progress.step < job.checkpoint_step:
        values |= {"step": job.checkpoint_step, "epoch": max(progress.epoch, job.progress["epoch"])}
        values["fraction"] = max(values["fraction"], job.progress["fraction"])
    values["total_steps"] = progress.total_steps or job.progress["total_steps"]
    return change(session, attempt, progress=values)


def release(session: Session, attempt: LeaseToken, reason: str = "Its worker is shutting down") -> Job:
    """Leave the job unfinished, with its place kept; it counts as no loss.

    It lands where what was asked meanwhile says: cancelled, paused, or else queued again.
    """
    job = lock_job(session, attempt)
    to = next_status(job)
    changed = change(session, attempt, **status_values(job, to, utc_now(session)))
    type_, message = {
        "queued": ("job.queued", f"{reason}; queued again."),
        "paused": ("job.paused", "Paused."),
        "cancelled": ("job.cancelled", "Cancelled."),
    }[to]
    events.record(session, job.id, type_, message, data={"status": to})
    return changed


def paused(session: Session, attempt: LeaseToken) -> Job:
    """Let go because a pause was asked for; queued again where it was taken back meanwhile."""
    return release(session, attempt, "The pause was taken back")


def cancelled(session: Session, attempt: LeaseToken) -> Job:
    """Let go because a cancel was asked for."""
    return release(session, attempt, "Nobody asked to cancel")


def fail(session: Session, attempt: LeaseToken, error: Mapping[str, Any]) -> Job:
    """End the job with ``error`` (see ``core.job_failure``); cancelled where that was asked for before."""
    job = lock_job(session, attempt)
    now = utc_now(session)
    if job.cancel_requested:
        changed = change(session, attempt, **status_values(job, "cancelled", now))
        data = {"status": "cancelled", "error": in_short(error)}
        events.record(session, job.id, "job.cancelled", "Cancelled.", data=data)
        return changed
    over = {"status": "failed", "error": dict(error), "finished_at": now}
    changed = change(session, attempt, **release_values(job, now), **NO_FLAGS, **over)
    data = {"status": "failed", "error": in_short(error)}
    events.record(session, job.id, "job.failed", str(error["message"]), level="error", data=data)
    return changed


def succeed(
    session: Session,
    attempt: LeaseToken,
    *,
    result: Mapping[str, Any],
    artifacts: Sequence[NewArtifact],
    model_id: str | None = None,
) -> Job:
    """End the job with its result and name the files that it hands out.

    Raises ``Interrupted(Control.CANCEL)`` where a cancel was asked for before: then nothing of this
    unit of work may stay, and the worker calls :func:`cancelled` in the next one.
    """
    job = lock_job(session, attempt)
    if job.cancel_requested:
        raise Interrupted(Control.CANCEL)
    now = utc_now(session)
    values = release_values(job, now) | NO_FLAGS
    values["progress"] = {**values["progress"], "fraction": 1.0, "eta_seconds": 0.0}
    values |= {"status": "succeeded", "result": {"model": model_id, **result}, "model_id": model_id}
    values |= {"finished_at": now, "error": None, "losses": 0}
    for new in artifacts:
        session.add(
            Artifact(
                job_id=job.id,
                project_id=job.project_id,
                name=new.name,
                media_type=new.media_type,
                size_bytes=new.file.size_bytes,
                sha256=new.file.sha256,
                key=new.file.key,
                attempt=attempt.attempt,
                created_at=now,
            )
        )
    add_stored(session, job.project_id, sum(new.file.size_bytes for new in artifacts))
    checkpoints.prune_checkpoints(session, attempt)
    changed = change(session, attempt, **values)
    events.record(session, job.id, "job.succeeded", "The student is ready.", data={"status": "succeeded"})
    return changed
