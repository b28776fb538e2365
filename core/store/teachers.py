"""Teachers that jobs trained, found again by their recipe within a project."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.store import events
from core.store.artifact_store import StoredFile
from core.store.db import utc_now
from core.store.job_leases import LeaseToken, lock_job
from core.store.tables import Event, Job, Teacher


def find(session: Session, project_id: str, recipe: str) -> Teacher | None:
    """The teacher of this recipe that the project has, if any; notes that it was used."""
    teacher = session.get(Teacher, (project_id, recipe), with_for_update=True)
    if teacher is not None:
        teacher.last_used_at = utc_now(session)
        session.flush()
    return teacher


def known(session: Session, project_id: str, recipe: str) -> bool:
    """Whether a job of this project would find its teacher trained already."""
    return session.get(Teacher, (project_id, recipe)) is not None


def keep(session: Session, attempt: LeaseToken, recipe: str, files: Sequence[StoredFile]) -> Teacher:
    """Keep a teacher whose files are published. Raises ``LeaseLost``.

    One that is there already is replaced: it was damaged, or another job trained the same at the same time.
    """
    job = lock_job(session, attempt)
    now = utc_now(session)
    new = {"job_id": job.id, "files": [file.as_json() for file in files], "created_at": now, "last_used_at": now}
    upsert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    session.execute(
        upsert(Teacher)
        .values(project_id=job.project_id, recipe=recipe, **new)
        .on_conflict_do_update(index_elements=["project_id", "recipe"], set_=new)
    )
    data = {"recipe": recipe}
    events.record(session, job.id, "teacher.saved", "The trained teacher is kept for later jobs.", data=data)
    return session.get_one(Teacher, (job.project_id, recipe), populate_existing=True)


def forget(session: Session, attempt: LeaseToken, recipe: str) -> None:
    """Forget a teacher whose files turned out to be damaged. Raises ``LeaseLost``."""
    job = lock_job(session, attempt)
    _delete(session, Teacher.project_id == job.project_id, Teacher.recipe == recipe)


def prune(session: Session, unused_days: float) -> int:
    """Forget teachers that no job has used for so long; their files are the collector's. Returns how many."""
    return _delete(session, Teacher.last_used_at < utc_now(session) - timedelta(days=unused_days))


def list_teachers(session: Session, project_id: str) -> list[Teacher]:
    """The project's teachers, last used first."""
    statement = select(Teacher).where(Teacher.project_id == project_id)
    return list(session.scalars(statement.order_by(Teacher.last_used_at.desc())))


def _delete(session: Session, *where: object) -> int:
    statement = delete(Teacher).where(*where).returning(Teacher.recipe)  # type: ignore[arg-type]
    return len(session.execute(statement.execution_options(synchronize_session=False)).all())


EVENT = "teacher_cache.summary"  # the engine's, with what was asked and how many views of it
_LOOKED_AT = 1_000  # newest jobs of a dataset


def has_cached_outputs(session: Session, project_id: str, dataset_id: str, *, asked: str, views: int) -> bool:
    """Whether a job of the project has stored at least so many views of what is asked.

    Where a worker has evicted them since, or has another disk, they are asked again: this is about what was done.
    """
    told = session.scalars(
        select(Event.data)
        .join(Job, Job.id == Event.job_id)
        .where(
            Job.project_id == project_id,
            Job.dataset_id == dataset_id,
            Job.status == "succeeded",
            Event.type == EVENT,
        )
        .order_by(Job.id.desc(), Event.seq.desc())
        .limit(_LOOKED_AT)
    )
    return any(
        one.get("asked") == asked and one.get("stopped") is None and one.get("views", 0) >= views for one in told
    )
