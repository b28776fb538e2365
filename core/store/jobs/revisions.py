"""Retry of a job with a changed spec: tracks that the change affects restart, the others resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from core.errors import InvalidState
from core.job_warnings import JobWarning, merge_warnings
from core.reporting import STUDENT_TRACK
from core.store import checkpoints
from core.store.jobs.actions import RESTART_REASON, lock, next_actions, requeue, require_retry
from core.store.jobs.row_values import initial_progress
from core.store.jobs.warnings import record_warnings
from core.store.tables import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """Changed spec of a failed or cancelled job, derived from its spec at event ``base_seq``.

    ``warnings`` are those of its estimate. ``tracks`` restart, because their checkpoints were made with other settings;
    ``changes`` describe the differences.
    """

    base_seq: int  # not the attempt: a retry that was cancelled before its claim changed the spec without an attempt
    spec: Mapping[str, Any]
    resolved: bool
    total_steps: int | None
    warnings: Sequence[JobWarning]
    changes: Sequence[str]
    tracks: Sequence[str]


def retry_revised(session: Session, project_id: str, job_id: str, revision: Revision) -> tuple[Job, list[str]]:
    """Requeue a failed or cancelled job with a changed spec.

    Returns the job, and the keys of files without a reference: delete them after the commit, or leave them to garbage
    collection. Raises ``NotFound``, ``InvalidState``.
    """
    job = lock(session, project_id, job_id)
    require_retry(job)
    if job.last_seq != revision.base_seq:
        raise InvalidState("This job was retried meanwhile; load it again.", extra={"next_actions": next_actions(job)})
    spec = revision.spec
    values: dict[str, Any] = {
        "spec": dict(spec),
        "resolved": revision.resolved,
        "name": spec["name"],
        "priority": spec["priority"],
        "metadata_": dict(spec["metadata"]),
        "warnings": merge_warnings((), revision.warnings),
    }
    if spec["resources"]["accelerator"] != job.spec.get("resources", {}).get("accelerator"):
        values["accelerator"] = spec["resources"]["accelerator"]  # otherwise the claim's pinned value stays
    has_checkpoint = checkpoints.has_resumable(session, job.id)
    tracks, reason = tuple(revision.tracks), _restart_text(revision.tracks, has_checkpoint=has_checkpoint)
    if not tracks and checkpoints.has_expired(session, job):
        tracks, reason = (STUDENT_TRACK,), RESTART_REASON
    garbage = checkpoints.delete_tracks(session, job, tracks)
    if STUDENT_TRACK in tracks:
        values |= {"checkpoint_step": 0, "progress": initial_progress(revision.total_steps)}
    message = f"Requeued with {', '.join(revision.changes) or 'the same spec'}; {reason}."
    data = {"changes": list(revision.changes), "restarts": list(tracks)}
    job = requeue(session, job, message, data=data, **values)
    record_warnings(session, job.id, revision.warnings)
    return job, garbage


def _restart_text(tracks: Sequence[str], *, has_checkpoint: bool) -> str:
    if not tracks:
        return "it resumes from its last checkpoint" if has_checkpoint else "it starts again"
    if STUDENT_TRACK not in tracks:
        raise AssertionError("a student cannot resume if one of its teachers restarts")
    others = [track.replace("-", " ") for track in tracks if track.startswith(("teacher-", "student-"))]
    models = "student" if not others else f"student and {', '.join(others)}"
    return f"training of the {models} restarts, because the checkpoints were made with other settings"
