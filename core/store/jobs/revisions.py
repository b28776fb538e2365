"""A retry with another spec: what no longer fits is dropped, the rest goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from core.errors import InvalidState
from core.store import checkpoints
from core.store.checkpoints import PUBLIC_TRACK
from core.store.jobs.actions import lock, next_actions, queue_again, require_retry
from core.store.jobs.row_values import first_progress
from core.store.tables import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """Another spec for a job that failed or was cancelled, derived from the one it had at event ``of_seq``.

    ``tracks`` are those whose checkpoints were made with settings that do not hold any more; ``changes`` say in
    words what is different.
    """

    of_seq: int  # its newest: a retry that was cancelled before its claim is no attempt, yet changed the spec
    spec: Mapping[str, Any]
    resolved: bool
    total_steps: int | None
    changes: Sequence[str]
    tracks: Sequence[str]


def retry_revised(session: Session, project_id: str, job_id: str, revision: Revision) -> tuple[Job, list[str]]:
    """Queue a failed or cancelled job again with another spec.

    Returns the job, and the keys of files that nothing names any more: delete them after the commit, or leave
    them to the collector. Raises ``NotFound``, ``InvalidState``.
    """
    job = lock(session, project_id, job_id)
    require_retry(job)
    if job.last_seq != revision.of_seq:
        raise InvalidState(
            "This job was retried meanwhile; look at it again.", extra={"next_actions": next_actions(job)}
        )
    spec = revision.spec
    values: dict[str, Any] = {
        "spec": dict(spec),
        "resolved": revision.resolved,
        "name": spec["name"],
        "priority": spec["priority"],
        "metadata_": dict(spec["metadata"]),
    }
    if spec["resources"]["accelerator"] != job.spec.get("resources", {}).get("accelerator"):
        values["accelerator"] = spec["resources"]["accelerator"]  # else the claim that pinned it still holds
    garbage = checkpoints.drop_tracks(session, job, revision.tracks)
    if PUBLIC_TRACK in revision.tracks:
        values |= {"checkpoint_step": 0, "progress": first_progress(revision.total_steps)}
    message = f"Queued again with {', '.join(revision.changes) or 'the same spec'}; {_from_where(revision.tracks)}."
    data = {"changes": list(revision.changes), "restarts": list(revision.tracks)}
    return queue_again(session, job, message, data=data, **values), garbage


def _from_where(tracks: Sequence[str]) -> str:
    if not tracks:
        return "it goes on from its last checkpoint"
    if PUBLIC_TRACK not in tracks:
        raise AssertionError("a student cannot go on where one of its teachers begins anew")
    teachers = [f"teacher {track.rpartition('-')[2]}" for track in tracks if track != PUBLIC_TRACK]
    whose = "student" if not teachers else f"student and {', '.join(teachers)}"
    return f"the training of the {whose} begins anew, as its checkpoints were made with other settings"
