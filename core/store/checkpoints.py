"""Checkpoints: the newest two of each track, to resume from, and the weights that the spec retains.

The API lists only the student's; the other tracks (``teacher-K``, ``baseline``, ``compress-K``, ``compressed-K``) only
serve resuming. A checkpoint from which another job's student starts is retained. All files count as stored bytes of
the project; each transaction updates that number last, after it has locked the job (see ``core.store.quotas``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.ids import new_id
from core.reporting import STUDENT_TRACK
from core.store import events
from core.store.artifact_store import StoredFile
from core.store.db import utc_now
from core.store.job_leases import LeaseToken, change, lock_job, read_job
from core.store.pagination import Page, not_found, paginate_newest_first, require_id
from core.store.quotas import add_stored
from core.store.tables import TERMINAL_STATUSES, Checkpoint, Job, JobReference

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"  # of the weights
NUM_RESUMABLE = 2  # the newest, and one more in case the newest is damaged

FileFields = Mapping[str, Any]  # JSON object of a stored file in a row


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """New checkpoint, and the keys of files that no row references any more."""

    checkpoint: Checkpoint
    garbage_keys: tuple[str, ...]


def save(
    session: Session,
    lease: LeaseToken,
    *,
    track: str,
    step: int,
    epoch: int,
    files: Sequence[StoredFile],
    metrics: Mapping[str, float] | None = None,
    retain: bool = False,
    checkpoint_id: str | None = None,
) -> StoredCheckpoint:
    """Add a checkpoint whose files (``model.safetensors`` and the training state) are published.

    A new highest step resets the job's count of worker losses. Delete ``garbage_keys`` after the commit, or leave
    them to garbage collection. Quotas do not apply: a running job continues although its project is full.
    Raises ``LeaseLost``.
    """
    job = lock_job(session, lease)
    earlier = _list_track(session, job.id, track)
    same_step = [old for old in earlier if old.step == step]  # an attempt that resumed before it saves it again
    # The output of a compression step may be another file.
    weights = next((file for file in files if file.name == WEIGHTS_NAME), files[0])
    saved = Checkpoint(
        id=checkpoint_id or new_id("ckpt"),
        job_id=job.id,
        project_id=job.project_id,
        track=track,
        step=step,
        epoch=epoch,
        metrics=dict(metrics or {}),
        attempt=lease.attempt,
        retained=retain or any(old.retained for old in same_step),
        resumable=True,
        size_bytes=weights.size_bytes,
        sha256=weights.sha256,
        files=[file.to_json() for file in files],
        created_at=utc_now(session),
    )
    session.add(saved)
    garbage = [file for old in same_step for file in _remove(session, old)]
    garbage += _prune_old(session, [saved, *(old for old in earlier if old.step != step)])
    _advance_job(session, lease, job, saved, earlier)
    session.flush()
    data = {"track": track, "step": step, "epoch": epoch, "checkpoint": saved.id}
    events.record(session, job.id, "checkpoint.saved", f"Checkpoint at step {step}.", data=data)
    # Usually 0: a checkpoint replaces one of the same size.
    add_stored(session, job.project_id, sum(file.size_bytes for file in files) - _total_bytes(garbage))
    return StoredCheckpoint(saved, _keys(garbage))


def _advance_job(
    session: Session, lease: LeaseToken, job: Job, saved: Checkpoint, earlier: Sequence[Checkpoint]
) -> None:
    values: dict[str, Any] = {}
    if all(saved.step > old.step for old in earlier if old.resumable):
        values["worker_losses"] = 0
    if saved.track == STUDENT_TRACK:
        values["checkpoint_step"] = max(job.checkpoint_step, saved.step)
        step, epoch = max(job.progress["step"], saved.step), max(job.progress["epoch"], saved.epoch)
        values["progress"] = {**job.progress, "step": step, "epoch": epoch}
    if values:
        change(session, lease, **values)


def list_resumable(session: Session, lease: LeaseToken) -> list[Checkpoint]:
    """List the checkpoints of all tracks that this attempt can resume from, newest first. Raises ``LeaseLost``."""
    job = read_job(session, lease)
    statement = select(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.resumable)
    return list(session.scalars(statement.order_by(Checkpoint.step.desc(), Checkpoint.id.desc())))


def has_resumable(session: Session, job_id: str) -> bool:
    """Whether a job has a checkpoint of any track to resume from."""
    found = select(Checkpoint.id).where(Checkpoint.job_id == job_id, Checkpoint.resumable)
    return session.scalar(found.limit(1)) is not None


def discard(session: Session, lease: LeaseToken, checkpoint_id: str) -> tuple[str, ...]:
    """Delete a damaged checkpoint; return the keys of its files. Raises ``LeaseLost``."""
    job = lock_job(session, lease)
    damaged = session.get(Checkpoint, checkpoint_id)
    if damaged is None or damaged.job_id != job.id:
        return ()
    garbage = _delete(session, damaged)
    session.flush()
    resumable_steps = (other.step for other in _list_track(session, job.id, STUDENT_TRACK) if other.resumable)
    change(session, lease, checkpoint_step=max(resumable_steps, default=0))
    data = {"track": damaged.track, "step": damaged.step, "checkpoint": damaged.id}
    message = f"Checkpoint at step {damaged.step} is damaged; resuming from the previous one."
    events.record(session, job.id, "checkpoint.damaged", message, level="warning", data=data)
    add_stored(session, job.project_id, -_total_bytes(garbage))
    return _keys(garbage)


def prune_checkpoints(session: Session, lease: LeaseToken) -> tuple[str, ...]:
    """Prune the checkpoints of a job that succeeds: keep the student's weights, drop all files for resuming.

    Returns the keys of the dropped files. Raises ``LeaseLost``.
    """
    return _prune_job(session, lock_job(session, lease))


def prune_expired(session: Session, retention_days: float) -> tuple[str, ...] | None:
    """Prune the checkpoints of one job that failed or was cancelled longer ago than the retention time.

    A later retry of it restarts its training. Returns the keys of the dropped files: delete them after the commit, or
    leave them to garbage collection. Returns None if there is no such job.
    """
    statement = (
        select(Job)
        .where(
            Job.id.in_(select(Checkpoint.job_id).where(Checkpoint.resumable)),
            Job.status.in_(("failed", "cancelled")),
            Job.finished_at < utc_now(session) - timedelta(days=retention_days),
        )
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    job = session.scalars(statement).one_or_none()
    return None if job is None else _prune_job(session, job)


def has_expired(session: Session, job: Job) -> bool:
    """Whether the job has trained, but has no checkpoint left to resume from."""
    resumable = (other.resumable for other in _list_track(session, job.id, STUDENT_TRACK))
    return job.checkpoint_step > 0 and not any(resumable)


def delete_tracks(session: Session, job: Job, tracks: Sequence[str]) -> list[str]:
    """Delete tracks of a job that restarts and that the caller has locked; return the keys of their files.

    The weights of a checkpoint that another unfinished job starts from stay.
    """
    checkpoints = [checkpoint for track in tracks for checkpoint in _list_track(session, job.id, track)]
    garbage = [file for checkpoint in checkpoints for file in _remove(session, checkpoint)]
    session.flush()
    add_stored(session, job.project_id, -_total_bytes(garbage))
    return list(_keys(garbage))


def list_files(session: Session, job_id: str) -> list[StoredFile]:
    """List all files of all checkpoints of a job."""
    rows = session.scalars(select(Checkpoint.files).where(Checkpoint.job_id == job_id))
    return [StoredFile.from_json(file) for files in rows for file in files]


def list_checkpoints(
    session: Session, project_id: str, job_id: str, *, limit: int = 20, after: str | None = None
) -> Page[Checkpoint]:
    """List the student's checkpoints, newest first; none for a job of another project."""
    statement = select(Checkpoint).where(
        Checkpoint.project_id == project_id, Checkpoint.job_id == job_id, Checkpoint.track == STUDENT_TRACK
    )
    return paginate_newest_first(session, statement, Checkpoint.id, limit=limit, after=after, prefix="ckpt")


def get(session: Session, project_id: str, job_id: str, checkpoint_id: str) -> Checkpoint:
    """Load a checkpoint of the student. Raises ``NotFound``."""
    require_id(checkpoint_id, "ckpt", "checkpoint")
    statement = select(Checkpoint).where(
        Checkpoint.id == checkpoint_id,
        Checkpoint.project_id == project_id,
        Checkpoint.job_id == job_id,
        Checkpoint.track == STUDENT_TRACK,
    )
    checkpoint = session.scalars(statement).one_or_none()
    if checkpoint is None:
        raise not_found("checkpoint", checkpoint_id)
    return checkpoint


def find(session: Session, project_id: str, checkpoint_id: str) -> Checkpoint:
    """Load a checkpoint of any student of the project. Raises ``NotFound``."""
    require_id(checkpoint_id, "ckpt", "checkpoint")
    statement = select(Checkpoint).where(
        Checkpoint.id == checkpoint_id, Checkpoint.project_id == project_id, Checkpoint.track == STUDENT_TRACK
    )
    checkpoint = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if checkpoint is None:
        raise not_found("checkpoint", checkpoint_id)
    return checkpoint


def retain(session: Session, project_id: str, checkpoint_id: str) -> Checkpoint:
    """Retain the weights of a checkpoint as long as its job exists, for a job that starts from them.

    Locks the job of the checkpoint first, as every change of its checkpoints does. Raises ``NotFound``.
    """
    job_id = find(session, project_id, checkpoint_id).job_id
    session.scalars(select(Job.id).where(Job.id == job_id).with_for_update()).one_or_none()
    checkpoint = find(session, project_id, checkpoint_id)
    checkpoint.retained = True
    session.flush()
    return checkpoint


def model_files(checkpoint: Checkpoint) -> list[StoredFile]:
    """Return weights and configuration of a checkpoint; those of earlier versions have no configuration."""
    return [file for file in map(StoredFile.from_json, checkpoint.files) if file.name in {WEIGHTS_NAME, CONFIG_NAME}]


def weights_file(checkpoint: Checkpoint) -> StoredFile:
    """Return the weights file of a checkpoint."""
    return next(file for file in map(StoredFile.from_json, checkpoint.files) if file.name == WEIGHTS_NAME)


# --- internal ---------------------------------------------------------------------------------------


def _prune_job(session: Session, job: Job) -> tuple[str, ...]:
    """Keep the student's weights, drop all files for resuming. The caller has locked the job."""
    garbage: list[FileFields] = []
    for checkpoint in session.scalars(select(Checkpoint).where(Checkpoint.job_id == job.id)).all():
        is_student = checkpoint.track == STUDENT_TRACK
        garbage += _drop_resume_files(checkpoint) if is_student else _delete(session, checkpoint)
    session.flush()
    add_stored(session, job.project_id, -_total_bytes(garbage))
    return _keys(garbage)


def _list_track(session: Session, job_id: str, track: str) -> list[Checkpoint]:
    statement = select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.track == track)
    return list(session.scalars(statement.order_by(Checkpoint.step.desc(), Checkpoint.id.desc())))


def _prune_old(session: Session, checkpoints: Sequence[Checkpoint]) -> list[FileFields]:
    garbage: list[FileFields] = []
    resumable = [checkpoint for checkpoint in checkpoints if checkpoint.resumable]
    resumable.sort(key=lambda checkpoint: checkpoint.step, reverse=True)
    for old in resumable[NUM_RESUMABLE:]:
        garbage += _drop_resume_files(old) if old.retained else _delete(session, old)
    return garbage


def _drop_resume_files(checkpoint: Checkpoint) -> list[FileFields]:
    retained = {file.key for file in model_files(checkpoint)}
    garbage = [file for file in checkpoint.files if file["key"] not in retained]
    checkpoint.resumable = False
    checkpoint.files = [file for file in checkpoint.files if file["key"] in retained]
    return garbage


def _remove(session: Session, checkpoint: Checkpoint) -> list[FileFields]:
    """Delete a checkpoint, but retain its weights while an unfinished job starts from them."""
    readers = select(JobReference.job_id).where(JobReference.object_id == checkpoint.id)
    unfinished = select(Job.id).where(Job.id.in_(readers), Job.status.not_in(TERMINAL_STATUSES)).limit(1)
    if session.scalar(unfinished) is None:
        return _delete(session, checkpoint)
    return _drop_resume_files(checkpoint)


def _delete(session: Session, checkpoint: Checkpoint) -> list[FileFields]:
    session.delete(checkpoint)
    return list(checkpoint.files)


def _total_bytes(files: Sequence[FileFields]) -> int:
    return sum(int(file["size_bytes"]) for file in files)


def _keys(files: Sequence[FileFields]) -> tuple[str, ...]:
    return tuple(str(file["key"]) for file in files)
