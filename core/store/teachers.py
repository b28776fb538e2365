"""Trained teachers and baselines of a project, reused by fingerprint, and completed teacher caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from core.reporting import TrainedKind
from core.store import events
from core.store.artifact_store import StoredFile, parse_stored_files
from core.store.db import insert_or_conflict, utc_now
from core.store.job_leases import LeaseToken, lock_job
from core.store.job_metrics import CACHE_EVENT
from core.store.tables import Event, Job, Teacher

_TEACHER_EVENTS = ("teacher.trained", "teacher.reused")  # written by the engine, with index and fingerprint
_DISTILLATION_EVENTS = ("distillation.finished", "distillation.reused")  # with the pointer of the model
_BASELINE_EVENTS = ("baseline.saved", "baseline.reused")
_MAX_EVENTS = 1_000  # of the newest jobs of a dataset


def find(session: Session, project_id: str, fingerprint: str) -> Teacher | None:
    """Load the project's teacher with this fingerprint, if any, and update its time of last use."""
    teacher = session.get(Teacher, (project_id, fingerprint), with_for_update=True)
    if teacher is not None:
        teacher.last_used_at = utc_now(session)
        session.flush()
    return teacher


def find_files(session: Session, project_id: str, fingerprint: str) -> list[StoredFile]:
    """Return the files of the project's teacher with this fingerprint as :func:`find` does; none without one."""
    teacher = find(session, project_id, fingerprint)
    return [] if teacher is None else parse_stored_files(teacher.files)


def exists(session: Session, project_id: str, fingerprint: str) -> bool:
    """Whether the project has a trained teacher with this fingerprint."""
    return session.get(Teacher, (project_id, fingerprint)) is not None


def find_of_job(session: Session, project_id: str, job_id: str) -> dict[int, Teacher]:
    """Return the teachers that a job trained or reused and that are still stored, by their index in its spec."""
    types = (*_DISTILLATION_EVENTS, *_TEACHER_EVENTS)
    statement = select(Event.type, Event.data).where(Event.job_id == job_id, Event.type.in_(types)).order_by(Event.seq)
    trainings = dict(filter(None, (_training(row.type, row.data) for row in session.execute(statement))))
    fingerprints: dict[int, str] = {}
    for pointer in sorted(trainings):  # a distilled teacher that is then fine-tuned has both: training comes last
        _, *model, _ = pointer.split("/")
        if model[0] == "teachers" and len(model) == 2:
            fingerprints[int(model[1])] = trainings[pointer]
    found = {index: session.get(Teacher, (project_id, fingerprint)) for index, fingerprint in fingerprints.items()}
    return {index: teacher for index, teacher in found.items() if teacher is not None}


def find_trained_models(session: Session, project_id: str, dataset_id: str) -> list[tuple[Mapping[str, Any], set[str]]]:
    """Return the specs of the newest jobs on a dataset, with the pointers of their trainings that are still stored.

    The pointers are those of :func:`core.spec.trained_models.trained_models`.
    """
    types = (*_BASELINE_EVENTS, *_DISTILLATION_EVENTS, *_TEACHER_EVENTS)
    statement = (
        select(Event.job_id, Event.type, Event.data)
        .join(Job, Job.id == Event.job_id)
        .where(Job.project_id == project_id, Job.dataset_id == dataset_id, Event.type.in_(types))
        .order_by(Job.id.desc())
        .limit(_MAX_EVENTS)
    )
    trainings: dict[str, dict[str, str]] = {}
    for job_id, type_, data in session.execute(statement):
        if (training := _training(type_, data)) is not None:
            trainings.setdefault(job_id, {}).update([training])
    wanted = {fingerprint for found in trainings.values() for fingerprint in found.values()}
    stored = set(
        session.scalars(
            select(Teacher.fingerprint).where(Teacher.project_id == project_id, Teacher.fingerprint.in_(wanted))
        )
    )
    pointers = {
        job_id: {pointer for pointer, fingerprint in found.items() if fingerprint in stored}
        for job_id, found in trainings.items()
    }
    specs = session.execute(select(Job.id, Job.spec).where(Job.id.in_([each for each in pointers if pointers[each]])))
    return [(spec, pointers[job_id]) for job_id, spec in specs]


def _training(type_: str, data: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return pointer and fingerprint of the training that an event of a job names; None for another one's.

    Events of a distillation inside the job have its pointer as ``model``.
    """
    fingerprint = data.get("recipe") or data.get("fingerprint")
    if fingerprint is None:
        return None
    if type_ in _DISTILLATION_EVENTS:
        return f"{data['model']}/distillation", fingerprint
    if "model" in data:
        return None
    pointer = "/baseline" if type_ in _BASELINE_EVENTS else f"/teachers/{data['teacher']}/training"
    return pointer, fingerprint


def save(
    session: Session,
    lease: LeaseToken,
    fingerprint: str,
    files: Sequence[StoredFile],
    *,
    kind: TrainedKind = "teacher",
) -> Teacher:
    """Save a teacher or baseline whose files are published. Raises ``LeaseLost``.

    Replaces an existing one: it was damaged, or another job trained the same teacher concurrently.
    """
    job = lock_job(session, lease)
    now = utc_now(session)
    new = {"job_id": job.id, "files": [file.to_json() for file in files], "created_at": now, "last_used_at": now}
    session.execute(
        insert_or_conflict(session, Teacher)
        .values(project_id=job.project_id, fingerprint=fingerprint, **new)
        .on_conflict_do_update(index_elements=["project_id", "fingerprint"], set_=new)
    )
    message = f"Trained {kind} saved for later jobs."
    events.record(session, job.id, f"{kind}.saved", message, data={"fingerprint": fingerprint})
    return session.get_one(Teacher, (job.project_id, fingerprint), populate_existing=True)


def delete_damaged(session: Session, lease: LeaseToken, fingerprint: str) -> None:
    """Delete a teacher whose files are damaged. Raises ``LeaseLost``."""
    job = lock_job(session, lease)
    _delete(session, Teacher.project_id == job.project_id, Teacher.fingerprint == fingerprint)


def prune(session: Session, unused_days: float) -> int:
    """Delete teachers without a use for ``unused_days``; return their number. Garbage collection deletes the files."""
    return _delete(session, Teacher.last_used_at < utc_now(session) - timedelta(days=unused_days))


def has_cached_outputs(session: Session, project_id: str, dataset_id: str, *, cache_key: str, num_views: int) -> bool:
    """Whether a succeeded job of the project has cached at least ``num_views`` views under this cache key.

    The cache itself may since have evicted them, or may be on the disk of another worker.
    """
    summaries = session.scalars(
        select(Event.data)
        .join(Job, Job.id == Event.job_id)
        .where(
            Job.project_id == project_id,
            Job.dataset_id == dataset_id,
            Job.status == "succeeded",
            Event.type == CACHE_EVENT,
        )
        .order_by(Job.id.desc(), Event.seq.desc())
        .limit(_MAX_EVENTS)
    )
    return any(
        summary.get("cache_key") == cache_key
        and summary.get("stopped") is None
        and summary.get("views", 0) >= num_views
        for summary in summaries
    )


def _delete(session: Session, *where: ColumnElement[bool]) -> int:
    statement = delete(Teacher).where(*where).returning(Teacher.fingerprint)
    return len(session.execute(statement.execution_options(synchronize_session=False)).all())
