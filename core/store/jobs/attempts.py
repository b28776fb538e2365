"""What the worker that holds a job may do with it. Everything here raises ``LeaseLost`` for anybody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.faults import in_short
from core.reporting import Control, Interrupted, Progress
from core.store import checkpoints, events
from core.store.artifacts import StoredFile
from core.store.db import utc_now
from core.store.jobs.rows import NO_FLAGS, landed, landing, off_worker, stages_entered, stages_left, stamp
from core.store.leases import Attempt, Flags, LeaseLost, change, held, hold, look
from core.store.quotas import add_stored
from core.store.tables import Artifact, Job


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """A file that a job hands out: published, read back, hashed."""

    name: str
    media_type: str
    file: StoredFile


def current(session: Session, attempt: Attempt) -> Job:
    """The job as it is now, read only."""
    return look(session, attempt)


def flags(session: Session, attempt: Attempt) -> Flags:
    """What was asked of the job; one small read, in a unit of work that only reads."""
    columns = select(Job.cancel_requested, Job.pause_requested, Job.stop_requested)
    row = session.execute(columns.where(*held(attempt))).one_or_none()
    if row is None:
        raise LeaseLost(f"{attempt.job_id} is not held by attempt {attempt.attempt} any more")
    return Flags(cancel=row[0], pause=row[1], stop=row[2])


def beat(session: Session, attempt: Attempt, lease_seconds: float) -> Flags:
    """Renew the lease and return what was asked of the job."""
    job = change(session, attempt, lease_expires_at=utc_now(session) + timedelta(seconds=lease_seconds))
    return Flags(cancel=job.cancel_requested, pause=job.pause_requested, stop=job.stop_requested)


def set_spec(session: Session, attempt: Attempt, spec: Mapping[str, Any], *, total_steps: int | None = None) -> Job:
    """Keep the spec with every default filled in."""
    job = hold(session, attempt)
    progress = {**job.progress, "total_steps": total_steps or job.progress["total_steps"]}
    changed = change(session, attempt, spec=dict(spec), resolved=True, progress=progress)
    events.record(session, job.id, "job.resolved", "Every default of the spec is filled in.")
    return changed


def start_stage(session: Session, attempt: Attempt, stage: str) -> Job:
    """Enter a stage, for the first time or again."""
    job = hold(session, attempt)
    now = utc_now(session)
    changed = change(session, attempt, stage=stage, stage_entered_at=now, stages=stages_entered(job, stage, now))
    events.record(session, job.id, "stage.started", f"Stage {stage} started.", data={"stage": stage})
    return changed


def finish_stage(session: Session, attempt: Attempt, stage: str) -> Job:
    """Leave a stage whose product is kept. ``seconds`` counts the work of all attempts, without the pauses."""
    job = hold(session, attempt)
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


def record_progress(session: Session, attempt: Attempt, progress: Progress) -> Job:
    """Keep how far the job is. Its step never falls below that of its newest checkpoint."""
    job = hold(session, attempt)
    values = asdict(progress)
    values["fraction"] = min(1.0, max(0.0, progress.fraction))
    if progress.step < job.checkpoint_step:
        values |= {"step": job.checkpoint_step, "epoch": max(progress.epoch, job.progress["epoch"])}
        values["fraction"] = max(values["fraction"], job.progress["fraction"])
    values["total_steps"] = progress.total_steps or job.progress["total_steps"]
    return change(session, attempt, progress=values)


def hand_back(session: Session, attempt: Attempt, reason: str = "Its worker is shutting down") -> Job:
    """Leave the job unfinished, with its place kept; it counts as no loss.

    It lands where what was asked meanwhile says: cancelled, paused, or else queued again.
    """
    job = hold(session, attempt)
    to = landing(job)
    changed = change(session, attempt, **landed(job, to, utc_now(session)))
    type_, message = {
        "queued": ("job.queued", f"{reason}; queued again."),
        "paused": ("job.paused", "Paused."),
        "cancelled": ("job.cancelled", "Cancelled."),
    }[to]
    events.record(session, job.id, type_, message, data={"status": to})
    return changed


def paused(session: Session, attempt: Attempt) -> Job:
    """Let go because a pause was asked for; queued again where it was taken back meanwhile."""
    return hand_back(session, attempt, "The pause was taken back")


def cancelled(session: Session, attempt: Attempt) -> Job:
    """Let go because a cancel was asked for."""
    return hand_back(session, attempt, "Nobody asked to cancel")


def fail(session: Session, attempt: Attempt, error: Mapping[str, Any]) -> Job:
    """End the job with ``error`` (see ``core.faults``); cancelled where that was asked for before."""
    job = hold(session, attempt)
    now = utc_now(session)
    if job.cancel_requested:
        changed = change(session, attempt, **landed(job, "cancelled", now))
        data = {"status": "cancelled", "error": in_short(error)}
        events.record(session, job.id, "job.cancelled", "Cancelled.", data=data)
        return changed
    over = {"status": "failed", "error": dict(error), "finished_at": now}
    changed = change(session, attempt, **off_worker(job, now), **NO_FLAGS, **over)
    data = {"status": "failed", "error": in_short(error)}
    events.record(session, job.id, "job.failed", str(error["message"]), level="error", data=data)
    return changed


def succeed(
    session: Session,
    attempt: Attempt,
    *,
    result: Mapping[str, Any],
    artifacts: Sequence[NewArtifact],
    model_id: str | None = None,
) -> Job:
    """End the job with its result and name the files that it hands out.

    Raises ``Interrupted(Control.CANCEL)`` where a cancel was asked for before: then nothing of this
    unit of work may stay, and the worker calls :func:`cancelled` in the next one.
    """
    job = hold(session, attempt)
    if job.cancel_requested:
        raise Interrupted(Control.CANCEL)
    now = utc_now(session)
    values = off_worker(job, now) | NO_FLAGS
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
    checkpoints.retire(session, attempt)
    changed = change(session, attempt, **values)
    events.record(session, job.id, "job.succeeded", "The student is ready.", data={"status": "succeeded"})
    return changed
