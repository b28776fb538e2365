"""Actions of a caller on a job: cancel, pause, resume, stop, retry.

Each locks the row, checks the status, and makes one guarded UPDATE with its event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import InvalidState
from core.reporting import STUDENT_TRACK
from core.store import checkpoints, events
from core.store.db import utc_now
from core.store.job_leases import change_where
from core.store.jobs.row_values import NO_FLAGS, ReleasedStatus, initial_progress, status_values
from core.store.pagination import not_found, require_id
from core.store.tables import Job

RESTART_REASON = "training of the student restarts, because the retention time of its checkpoints is over"


def next_actions(job: Job) -> list[str]:
    """Return the actions that would have an effect now."""
    match job.status:
        case "queued":
            return ["cancel", "pause"]
        case "paused":
            return ["cancel", "resume", "stop"]
        case "running" if job.cancel_requested:
            return []
        case "running":
            pause = "resume" if job.pause_requested else "pause"
            return ["cancel", pause] if job.stop_requested else ["cancel", pause, "stop"]
        case "failed" | "cancelled" if job.missing_input is None and _can_be_retried(job):
            return ["retry"]
    return []


def _can_be_retried(job: Job) -> bool:
    """Whether a retry can succeed: with the same spec, or with the fix of the job's error."""
    error = job.error or {}
    return bool(error.get("retryable", True) or error.get("fix"))


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """Cancel the job; its checkpoints stay. Raises ``NotFound``, ``InvalidState``."""
    job = lock(session, project_id, job_id)
    match job.status:
        case "queued" | "paused":
            return _change_status(session, job, "cancelled", "job.cancelled", "Cancelled.")
        case "running" if not job.cancel_requested:
            return _request_action(session, job, "cancel")
        case "running" | "cancelled":
            return job
    raise invalid_action(job, "cancel")


def pause(session: Session, project_id: str, job_id: str) -> Job:
    """Pause the job and release its worker. Raises ``NotFound``, ``InvalidState``."""
    job = lock(session, project_id, job_id)
    match job.status:
        case "queued":
            return _change_status(session, job, "paused", "job.paused", "Paused.")
        case "running" if not (job.pause_requested or job.cancel_requested):
            return _request_action(session, job, "pause")
        case "running" | "paused":
            return job
    raise invalid_action(job, "pause")


def resume(session: Session, project_id: str, job_id: str) -> Job:
    """Resume a paused job, or withdraw a pending pause. Raises ``NotFound``, ``InvalidState``."""
    job = lock(session, project_id, job_id)
    match job.status:
        case "paused":
            return _change_status(session, job, "queued", "job.resumed", "Resumed; waiting for a worker.")
        case "running" if job.pause_requested and not job.cancel_requested:
            changed = _change(session, job, pause_requested=False)
            return _record_event(session, changed, "job.pause_withdrawn", "Pending pause withdrawn.")
        case "queued" | "running":
            return job
    raise invalid_action(job, "resume")


def stop(session: Session, project_id: str, job_id: str) -> Job:
    """Stop training early, then evaluate and export. Raises ``NotFound``, ``InvalidState``."""
    job = lock(session, project_id, job_id)
    match job.status:
        case "paused":
            changed = _change(session, job, **status_values(job, "queued", utc_now(session)), stop_requested=True)
            message = "Stop requested; waiting for a worker to evaluate and export."
            return _record_event(session, changed, "job.stop_requested", message)
        case "running" if not (job.stop_requested or job.cancel_requested):
            return _request_action(session, job, "stop")
        case "running" | "succeeded":
            return job
    raise invalid_action(job, "stop")


def retry(session: Session, project_id: str, job_id: str) -> Job:
    """Queue a failed or cancelled job again, from its last checkpoint if it has one.

    If the retention time of its checkpoints is over, the student's training restarts.
    Raises ``NotFound``, ``InvalidState``.
    """
    job = lock(session, project_id, job_id)
    require_retry(job)
    if not checkpoints.has_expired(session, job):
        start = "resumes from the last checkpoint" if checkpoints.has_resumable(session, job.id) else "starts again"
        return requeue(session, job, f"Requeued; {start}.")
    checkpoints.delete_tracks(session, job, [STUDENT_TRACK])  # garbage collection deletes the files
    values = {"checkpoint_step": 0, "progress": initial_progress(job.progress["total_steps"])}
    return requeue(session, job, f"Requeued; {RESTART_REASON}.", data={"restarts": [STUDENT_TRACK]}, **values)


# --- internal ---------------------------------------------------------------------------------------


def lock(session: Session, project_id: str, job_id: str) -> Job:
    """Load a job and lock its row until the transaction ends. Raises ``NotFound``."""
    require_id(job_id, "job", "job")
    statement = (
        select(Job)
        .where(Job.id == job_id, Job.project_id == project_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    job = session.scalars(statement).one_or_none()
    if job is None:
        raise not_found("job", job_id)
    return job


def invalid_action(job: Job, action: str) -> InvalidState:
    """Return the error (409) for an action in the wrong status; it lists the allowed actions."""
    allowed = next_actions(job)
    instead = f"allowed now: {', '.join(allowed)}" if allowed else "no action is allowed now"
    return InvalidState(f"A job that is {job.status} cannot {action}; {instead}.", extra={"next_actions": allowed})


def require_retry(job: Job) -> None:
    """Raise ``InvalidState`` if a locked job cannot be retried."""
    if job.status not in {"failed", "cancelled"}:
        raise invalid_action(job, "retry")
    if job.missing_input is not None:
        raise InvalidState(
            f"{job.missing_input}, which this job reads, was deleted; create a new job instead.",
            extra={"next_actions": next_actions(job)},
        )


def requeue(session: Session, job: Job, message: str, *, data: Mapping[str, Any] | None = None, **values: Any) -> Job:
    """Queue a locked job again; ``values`` are further columns to change."""
    reset = {"status": "queued", "worker_losses": 0, "error": None, "result": None, "finished_at": None, **NO_FLAGS}
    changed = _change(session, job, **reset, **values)
    events.record(session, job.id, "job.retried", message, data={"status": "queued", **(data or {})})
    return changed


def _request_action(session: Session, job: Job, action: str) -> Job:
    values: dict[str, Any] = {f"{action}_requested": True}
    changed = _change(session, job, **values)
    return _record_event(session, changed, f"job.{action}_requested", f"{action.capitalize()} requested.")


def _change_status(session: Session, job: Job, status: ReleasedStatus, type_: str, message: str) -> Job:
    return _record_event(session, _change(session, job, **status_values(job, status, utc_now(session))), type_, message)


def _change(session: Session, job: Job, **values: Any) -> Job:
    guard = (Job.id == job.id, Job.status == job.status, Job.attempt == job.attempt)
    changed = change_where(session, *guard, **values)
    assert changed is not None, "the row is locked by this transaction"
    return changed


def _record_event(session: Session, job: Job, type_: str, message: str) -> Job:
    events.record(session, job.id, type_, message, data={"status": job.status})
    return job
