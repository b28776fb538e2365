"""Reads and writes of the worker that holds the lease of a job. All functions raise ``LeaseLost`` for a stale lease."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.job_failure import event_fields
from core.job_warnings import JobWarning, merge_warnings
from core.reporting import Control, Interrupted, Progress
from core.store import checkpoints, events
from core.store.artifact_store import StoredFile
from core.store.db import format_time, utc_now
from core.store.job_leases import Flags, LeaseToken, change, lease_filter, lock_job, read_job, require_lease
from core.store.jobs.row_values import (
    NO_FLAGS,
    next_status,
    release_values,
    stages_after_entering,
    stages_after_leaving,
    status_values,
)
from core.store.jobs.warnings import record_warnings
from core.store.quotas import add_stored
from core.store.tables import Artifact, Job


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """Output file of a job: published, read back and hashed. A file of an export format has a ``receipt``."""

    name: str
    media_type: str
    file: StoredFile
    receipt: Mapping[str, Any] | None = None


def get_leased(session: Session, lease: LeaseToken) -> Job:
    """Load the job, read only."""
    return read_job(session, lease)


def read_flags(session: Session, lease: LeaseToken) -> Flags:
    """Read the requested actions, in one small query without a write."""
    columns = select(Job.cancel_requested, Job.pause_requested, Job.stop_requested)
    row = require_lease(session.execute(columns.where(*lease_filter(lease))).one_or_none(), lease)
    return Flags(cancel=row[0], pause=row[1], stop=row[2])


def renew_lease(session: Session, lease: LeaseToken, lease_seconds: float) -> Flags:
    """Renew the lease and return the requested actions."""
    job = change(session, lease, lease_expires_at=utc_now(session) + timedelta(seconds=lease_seconds))
    return Flags(cancel=job.cancel_requested, pause=job.pause_requested, stop=job.stop_requested)


def set_spec(
    session: Session,
    lease: LeaseToken,
    spec: Mapping[str, Any],
    *,
    total_steps: int | None = None,
    warnings: Sequence[JobWarning] = (),
) -> Job:
    """Store the resolved spec, which has all defaults filled in, and the warnings of its estimate."""
    job = lock_job(session, lease)
    progress = {**job.progress, "total_steps": total_steps or job.progress["total_steps"]}
    changed = change(session, lease, spec=dict(spec), resolved=True, progress=progress)
    events.record(session, job.id, "job.resolved", "Spec resolved: all defaults are filled in.")
    add_warnings(session, lease, warnings)
    return changed


def add_warnings(session: Session, lease: LeaseToken, warnings: Sequence[JobWarning]) -> None:
    """Add warnings to the job's list, with an event for each that the list does not have yet."""
    job = lock_job(session, lease)
    merged = merge_warnings(job.warnings, warnings)
    new = [warning for warning in warnings if warning.model_dump(mode="json") not in job.warnings]
    if new:
        change(session, lease, warnings=merged)
        record_warnings(session, job.id, new)


def start_stage(session: Session, lease: LeaseToken, stage: str) -> Job:
    """Start a stage, or start it again."""
    job = lock_job(session, lease)
    now = utc_now(session)
    changed = change(
        session,
        lease,
        stage=stage,
        stage_entered_at=now,
        stages=stages_after_entering(job, stage, now),
        progress={**job.progress, "stage_step": None, "stage_total_steps": None},  # those of the stage before
    )
    events.record(session, job.id, "stage.started", f"Stage {stage} started.", data={"stage": stage})
    return changed


def finish_stage(session: Session, lease: LeaseToken, stage: str) -> Job:
    """Finish a stage whose result is stored. Its ``seconds`` sum the work of all attempts, without pauses."""
    job = lock_job(session, lease)
    now = utc_now(session)
    stages = [
        {**entry, "finished_at": format_time(now), "seconds": entry["seconds"] or 0.0}
        if entry["name"] == stage
        else entry
        for entry in stages_after_leaving(job, now)
    ]
    changed = change(session, lease, stages=stages, stage_entered_at=None)
    seconds = next((entry["seconds"] for entry in stages if entry["name"] == stage), None)
    data = {"stage": stage, "seconds": seconds}
    events.record(session, job.id, "stage.finished", f"Stage {stage} finished.", data=data)
    return changed


def record_progress(session: Session, lease: LeaseToken, progress: Progress) -> Job:
    """Store the progress of the job. Its step never falls below that of the newest checkpoint."""
    job = lock_job(session, lease)
    values = asdict(progress)
    values["fraction"] = min(1.0, max(0.0, progress.fraction))
    if progress.step < job.checkpoint_step:
        values |= {"step": job.checkpoint_step, "epoch": max(progress.epoch, job.progress["epoch"])}
        values["fraction"] = max(values["fraction"], job.progress["fraction"])
    values["total_steps"] = progress.total_steps or job.progress["total_steps"]
    return change(session, lease, progress=values)


def release(session: Session, lease: LeaseToken, reason: str = "Its worker is shutting down") -> Job:
    """Release the unfinished job, which does not count as a worker loss.

    The job is then cancelled or paused if that was requested, and queued again otherwise.
    """
    job = lock_job(session, lease)
    status = next_status(job)
    changed = change(session, lease, **status_values(job, status, utc_now(session)))
    type_, message = {
        "queued": ("job.queued", f"{reason}; requeued."),
        "paused": ("job.paused", "Paused."),
        "cancelled": ("job.cancelled", "Cancelled."),
    }[status]
    events.record(session, job.id, type_, message, data={"status": status})
    return changed


def release_paused(session: Session, lease: LeaseToken) -> Job:
    """Release the job after a requested pause; it is requeued if the pause was withdrawn meanwhile."""
    return release(session, lease, "Pause withdrawn")


def release_cancelled(session: Session, lease: LeaseToken) -> Job:
    """Release the job after a requested cancel."""
    return release(session, lease, "No cancel was requested")


def fail(session: Session, lease: LeaseToken, error: Mapping[str, Any]) -> Job:
    """End the job with ``error`` (see ``core.job_failure``); it is cancelled if that was requested before."""
    job = lock_job(session, lease)
    now = utc_now(session)
    if job.cancel_requested:
        changed = change(session, lease, **status_values(job, "cancelled", now))
        data = {"status": "cancelled", "error": event_fields(error)}
        events.record(session, job.id, "job.cancelled", "Cancelled.", data=data)
        return changed
    failed = {"status": "failed", "error": dict(error), "finished_at": now}
    changed = change(session, lease, **release_values(job, now), **NO_FLAGS, **failed)
    data = {"status": "failed", "error": event_fields(error)}
    events.record(session, job.id, "job.failed", str(error["message"]), level="error", data=data)
    return changed


def succeed(
    session: Session,
    lease: LeaseToken,
    *,
    result: Mapping[str, Any],
    artifacts: Sequence[NewArtifact],
    model_id: str | None = None,
) -> Job:
    """End the job with its result and its artifacts.

    Raises ``Interrupted(Control.CANCEL)`` if a cancel was requested before: then the caller must roll back and call
    :func:`release_cancelled` in the next transaction.
    """
    job = lock_job(session, lease)
    if job.cancel_requested:
        raise Interrupted(Control.CANCEL)
    now = utc_now(session)
    values = release_values(job, now) | NO_FLAGS
    values["progress"] = {**values["progress"], "fraction": 1.0, "eta_seconds": 0.0}
    values |= {"status": "succeeded", "result": {"model": model_id, **result}, "model_id": model_id}
    values |= {"finished_at": now, "error": None, "worker_losses": 0}
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
                receipt=None if new.receipt is None else dict(new.receipt),
                attempt=lease.attempt,
                created_at=now,
            )
        )
    add_stored(session, job.project_id, sum(new.file.size_bytes for new in artifacts))
    checkpoints.prune_checkpoints(session, lease)
    changed = change(session, lease, **values)
    events.record(session, job.id, "job.succeeded", "The student is ready.", data={"status": "succeeded"})
    return changed
