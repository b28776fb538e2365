"""What a caller may ask of a job: the contract's table of moves.

The row is locked, the table is read, and one guarded UPDATE does the move with its event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import InvalidState
from core.store import events
from core.store.db import utc_now
from core.store.job_leases import change_where
from core.store.jobs.row_values import NO_FLAGS, Landing, status_values
from core.store.pagination import missing, require_id
from core.store.tables import Job


def next_actions(job: Job) -> list[str]:
    """The moves that would do something now."""
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
        case "failed" | "cancelled" if job.missing_input is None:
            return ["retry"]
    return []


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """End the job; its checkpoints are kept. Raises ``NotFound``, ``InvalidState``."""
    job = lock(session, project_id, job_id)
    match job.status:
        case "queued" | "paused":
            return _land(session, job, "cancelled", "job.cancelled", "Cancelled.")
        case "running" if not job.cancel_requested:
            return _ask(session, job, "cancel")
        case "running" | "cancelled":
            return job
    raise refused(job, "cancel")


def pause(session: Session, project_id: str, job_id: str) -> Job:
    """Let go of the worker and keep the place. Raises ``NotFound``, ``InvalidState``."""
    job = lock(session, project_id, job_id)
    match job.status:
        case "queued":
            return _land(session, job, "paused", "job.paused", "Paused.")
        case "running" if not (job.pause_requested or job.cancel_requested):
            return _ask(session, job, "pause")
        case "running" | "paused":
            return job
    raise refused(job, "pause")


def resume(session: Session, project_id: str, job_id: str) -> Job:
    """Go on with a paused job; takes back a pause that has not happened yet. Raises ``NotFound``, ``InvalidState``."""
    job = lock(session, project_id, job_id)
    match job.status:
        case "paused":
            return _land(session, job, "queued", "job.resumed", "Resumed; waiting for a worker.")
        case "running" if job.pause_requested and not job.cancel_requested:
            changed = _change(session, job, pause_requested=False)
            return _say(session, changed, "job.pause_withdrawn", "The pause was taken back before it happened.")
        case "queued" | "running":
            return job
    raise refused(job, "resume")


def stop(session: Session, project_id: str, job_id: str) -> Job:
    """End training early, then evaluate and export. Raises ``NotFound``, ``InvalidState``."""
    job = lock(session, project_id, job_id)
    match job.status:
        case "paused":
            changed = _change(session, job, **status_values(job, "queued", utc_now(session)), stop_requested=True)
            message = "Asked to stop; waiting for a worker to evaluate and export."
            return _say(session, changed, "job.stop_requested", message)
        case "running" if not (job.stop_requested or job.cancel_requested):
            return _ask(session, job, "stop")
        case "running" | "succeeded":
            return job
    raise refused(job, "stop")


def retry(session: Session, project_id: str, job_id: str) -> Job:
    """Queue a failed or cancelled job again, from its last checkpoint. Raises ``NotFound``, ``InvalidState``."""
    job = lock(session, project_id, job_id)
    require_retry(job)
    return queue_again(session, job, "Queued again, from its last checkpoint.")


# --- inside ---------------------------------------------------------------------------------------


def lock(session: Session, project_id: str, job_id: str) -> Job:
    """Load a job and keep everybody else from changing it until the transaction ends. Raises ``NotFound``."""
    require_id(job_id, "job", "job")
    statement = (
        select(Job)
        .where(Job.id == job_id, Job.project_id == project_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    job = session.scalars(statement).one_or_none()
    if job is None:
        raise missing("job", job_id)
    return job


def refused(job: Job, move: str) -> InvalidState:
    """The 409 that names what is allowed instead."""
    allowed = next_actions(job)
    instead = f"allowed now: {', '.join(allowed)}" if allowed else "nothing can be asked of it now"
    return InvalidState(f"A job that is {job.status} cannot {move}; {instead}.", extra={"next_actions": allowed})


def require_retry(job: Job) -> None:
    """Raise ``InvalidState`` for a locked job that cannot be retried."""
    if job.status not in {"failed", "cancelled"}:
        raise refused(job, "retry")
    if job.missing_input is not None:
        raise InvalidState(
            f"{job.missing_input}, which this job reads, was deleted; create a new job instead.",
            extra={"next_actions": next_actions(job)},
        )


def queue_again(
    session: Session, job: Job, message: str, *, data: Mapping[str, Any] | None = None, **values: Any
) -> Job:
    """Queue a locked job that may be retried, with other ``values`` of its row."""
    fresh = {"status": "queued", "losses": 0, "error": None, "result": None, "finished_at": None, **NO_FLAGS}
    changed = _change(session, job, **fresh, **values)
    events.record(session, job.id, "job.retried", message, data={"status": "queued", **(data or {})})
    return changed


def _ask(session: Session, job: Job, move: str) -> Job:
    values: dict[str, Any] = {f"{move}_requested": True}
    changed = _change(session, job, **values)
    return _say(session, changed, f"job.{move}_requested", f"Asked to {move}; its worker will see to it.")


def _land(session: Session, job: Job, status: Landing, type_: str, message: str) -> Job:
    return _say(session, _change(session, job, **status_values(job, status, utc_now(session))), type_, message)


def _change(session: Session, job: Job, **values: Any) -> Job:
    guard = (Job.id == job.id, Job.status == job.status, Job.attempt == job.attempt)
    changed = change_where(session, *guard, **values)
    assert changed is not None, "the row is locked, so nobody else can have changed it"
    return changed


def _say(session: Session, job: Job, type_: str, message: str) -> Job:
    events.record(session, job.id, type_, message, data={"status": job.status})
    return job
