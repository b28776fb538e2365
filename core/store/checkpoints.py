"""Checkpoints: the newest two of each track to resume from, and weights that were asked to be kept.

Tracks called ``teacher-K`` are for resuming alone and are never listed. All files of all tracks count as stored by
the project; that is noted last in each unit of work, once the job is held (see ``core.store.quotas``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.ids import new_id
from core.store import events
from core.store.artifact_store import StoredFile
from core.store.db import utc_now
from core.store.job_leases import LeaseToken, change, lock_job, read_job
from core.store.pagination import Page, missing, newest_first, require_id
from core.store.quotas import add_stored
from core.store.tables import Checkpoint, Job

PUBLIC_TRACK = "distill"
WEIGHTS = "model.safetensors"
RESUMABLE = 2  # the newest, and one before in case the newest turns out to be damaged

File = Mapping[str, Any]  # a stored file as a row keeps it


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is now in the list, and the keys of files that it made superfluous."""

    checkpoint: Checkpoint
    garbage: tuple[str, ...]


def save(
    session: Session,
    attempt: LeaseToken,
    *,
    track: str,
    step: int,
    epoch: int,
    files: Sequence[StoredFile],
    metrics: Mapping[str, float] | None = None,
    keep: bool = False,
    checkpoint_id: str | None = None,
) -> Saved:
    """List a checkpoint whose files (``model.safetensors`` and what else resuming needs) are published.

    A step further than any before clears the job's losses. Delete ``garbage`` after the commit, or
    leave it to the collector. No quota is asked: a job that runs goes on, however full its project is.
    Raises ``LeaseLost``.
    """
    job = lock_job(session, attempt)
    before = _of_track(session, job.id, track)
    weights = next(file for file in files if file.name == WEIGHTS)
    saved = Checkpoint(
        id=checkpoint_id or new_id("ckpt"),
        job_id=job.id,
        project_id=job.project_id,
        track=track,
        step=step,
        epoch=epoch,
        metrics=dict(metrics or {}),
        attempt=attempt.attempt,
        kept=keep or any(old.kept for old in before if old.step == step),
        resumable=True,
        size_bytes=weights.size_bytes,
        sha256=weights.sha256,
        files=[file.as_json() for file in files],
        created_at=utc_now(session),
    )
    session.add(saved)
    again = [old for old in before if old.step == step]  # the same state, saved twice
    others = [old for old in before if old.step != step]
    garbage = [file for old in again for file in _drop(session, old)]
    garbage += _retain(session, [saved, *others])
    _get_on(session, attempt, job, saved, before)
    session.flush()
    data = {"track": track, "step": step, "epoch": epoch, "checkpoint": saved.id}
    events.record(session, job.id, "checkpoint.saved", f"Checkpoint at step {step}.", data=data)
    # Mostly nothing: a checkpoint replaces one of the same size.
    add_stored(session, job.project_id, sum(file.size_bytes for file in files) - _size(garbage))
    return Saved(saved, _keys(garbage))


def _get_on(session: Session, attempt: LeaseToken, job: Job, saved: Checkpoint, before: Sequence[Checkpoint]) -> None:
    values: dict[str, Any] = {}
    if all(saved.step > old.step for old in before):
        values["losses"] = 0
    if saved.track == PUBLIC_TRACK:
        values["checkpoint_step"] = max(job.checkpoint_step, saved.step)
        step, epoch = max(job.progress["step"], saved.step), max(job.progress["epoch"], saved.epoch)
        values["progress"] = {**job.progress, "step": step, "epoch": epoch}
    if values:
        change(session, attempt, **values)


def newest(session: Session, attempt: LeaseToken) -> list[Checkpoint]:
    """What this attempt may resume from, every track, newest first. Raises ``LeaseLost``."""
    job = read_job(session, attempt)
    statement = select(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.resumable)
    return list(session.scalars(statement.order_by(Checkpoint.step.desc(), Checkpoint.id.desc())))


def discard(session: Session, attempt: LeaseToken, checkpoint_id: str) -> tuple[str, ...]:
    """Take a damaged checkpoint off the list; returns the keys of its files. Raises ``LeaseLost``."""
    job = lock_job(session, attempt)
    damaged = session.get(Checkpoint, checkpoint_id)
    if damaged is None or damaged.job_id != job.id:
        return ()
    garbage = _drop(session, damaged)
    session.flush()
    step = max((one.step for one in _of_track(session, job.id, PUBLIC_TRACK) if one.resumable), default=0)
    change(session, attempt, checkpoint_step=step)
    data = {"track": damaged.track, "step": damaged.step, "checkpoint": damaged.id}
    message = f"The checkpoint at step {damaged.step} is damaged; going on from the one before."
    events.record(session, job.id, "checkpoint.damaged", message, level="warning", data=data)
    add_stored(session, job.project_id, -_size(garbage))
    return _keys(garbage)


def prune_checkpoints(session: Session, attempt: LeaseToken) -> tuple[str, ...]:
    """Of a job that succeeds: keep the weights of the listed checkpoints, drop what only resuming needed."""
    job = lock_job(session, attempt)
    garbage: list[File] = []
    for one in session.scalars(select(Checkpoint).where(Checkpoint.job_id == job.id)).all():
        garbage += _shrink(one) if one.track == PUBLIC_TRACK else _drop(session, one)
    session.flush()
    add_stored(session, job.project_id, -_size(garbage))
    return _keys(garbage)


def drop_tracks(session: Session, job: Job, tracks: Sequence[str]) -> list[str]:
    """Of a job that begins anew, which the caller has locked: forget these tracks; returns the keys of their files."""
    garbage = [file for track in tracks for one in _of_track(session, job.id, track) for file in _drop(session, one)]
    session.flush()
    add_stored(session, job.project_id, -_size(garbage))
    return list(_keys(garbage))


def files_of(session: Session, job_id: str) -> list[StoredFile]:
    """All files of all checkpoints of a job."""
    listed = session.scalars(select(Checkpoint.files).where(Checkpoint.job_id == job_id))
    return [StoredFile.from_json(file) for files in listed for file in files]


def list_checkpoints(
    session: Session, project_id: str, job_id: str, *, limit: int = 20, after: str | None = None
) -> Page[Checkpoint]:
    """The student's checkpoints, newest first. Of a job that is not the project's: none."""
    statement = select(Checkpoint).where(
        Checkpoint.project_id == project_id, Checkpoint.job_id == job_id, Checkpoint.track == PUBLIC_TRACK
    )
    return newest_first(session, statement, Checkpoint.id, limit=limit, after=after, prefix="ckpt")


def get(session: Session, project_id: str, job_id: str, checkpoint_id: str) -> Checkpoint:
    """One of them. Raises ``NotFound``."""
    require_id(checkpoint_id, "ckpt", "checkpoint")
    statement = select(Checkpoint).where(
        Checkpoint.id == checkpoint_id,
        Checkpoint.project_id == project_id,
        Checkpoint.job_id == job_id,
        Checkpoint.track == PUBLIC_TRACK,
    )
    found = session.scalars(statement).one_or_none()
    if found is None:
        raise missing("checkpoint", checkpoint_id)
    return found


def weights_file(checkpoint: Checkpoint) -> StoredFile:
    """The student's weights of a checkpoint."""
    return next(file for file in map(StoredFile.from_json, checkpoint.files) if file.name == WEIGHTS)


# --- inside ---------------------------------------------------------------------------------------


def _of_track(session: Session, job_id: str, track: str) -> list[Checkpoint]:
    statement = select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.track == track)
    return list(session.scalars(statement.order_by(Checkpoint.step.desc(), Checkpoint.id.desc())))


def _retain(session: Session, checkpoints: Sequence[Checkpoint]) -> list[File]:
    garbage: list[File] = []
    resumable = sorted((one for one in checkpoints if one.resumable), key=lambda one: one.step, reverse=True)
    for old in resumable[RESUMABLE:]:
        garbage += _shrink(old) if old.kept else _drop(session, old)
    return garbage


def _shrink(checkpoint: Checkpoint) -> list[File]:
    weights = weights_file(checkpoint).key
    garbage = [file for file in checkpoint.files if file["key"] != weights]
    checkpoint.resumable = False
    checkpoint.files = [file for file in checkpoint.files if file["key"] == weights]
    return garbage


def _drop(session: Session, checkpoint: Checkpoint) -> list[File]:
    session.delete(checkpoint)
    return list(checkpoint.files)


def _size(files: Sequence[File]) -> int:
    return sum(int(file["size_bytes"]) for file in files)


def _keys(files: Sequence[File]) -> tuple[str, ...]:
    return tuple(str(file["key"]) for file in files)
