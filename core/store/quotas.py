"""Quotas and usage of a project: unfinished jobs, stored bytes, upload size.

Unfinished jobs are counted in an index, up to the limit only. Stored bytes (datasets, models, uploads, artifacts,
checkpoints) are a counter that each transaction updates when it adds or removes files (:func:`add_stored`).
:func:`recount` computes it again from the rows, to correct errors of bugs or of a concurrently running older version.

Quotas apply to new jobs, retries and uploads. A running job is not limited: its checkpoints and artifacts are always
accepted.

Lock order: the row of the counter comes last. A transaction locks jobs, datasets, models and uploads first, and
:func:`recount` locks only the counter. So no transaction holds the counter while it waits for another row. Webhooks are
the exception: an event reads them under a shared lock after the counter, and no transaction that changes a webhook
takes the counter.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import JSON, BigInteger, Select, cast, column, func, select, true
from sqlalchemy.orm import Session

from core.errors import QuotaExceeded
from core.settings import Settings
from core.store.db import insert_or_conflict, is_postgresql
from core.store.project_tables import Project, ProjectUsage
from core.store.tables import TERMINAL_STATUSES, Artifact, Checkpoint, Dataset, Job, Model
from core.store.upload_tables import Upload

UNFINISHED = ("queued", "running", "paused")
assert not set(UNFINISHED) & set(TERMINAL_STATUSES)


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits of a project. 0: no limit, except for ``upload_bytes``, which is always limited."""

    jobs: int
    stored_bytes: int
    upload_bytes: int


def load_quotas(session: Session, project_id: str, settings: Settings) -> Quotas:
    """Load the project's limits, with defaults from the settings. ``upload_bytes`` never exceeds the setting."""
    columns = select(Project.max_jobs, Project.max_stored_bytes, Project.max_upload_bytes)
    own = session.execute(columns.where(Project.id == project_id)).one()
    return Quotas(
        jobs=settings.quota_jobs if own[0] is None else own[0],
        stored_bytes=settings.quota_stored_bytes if own[1] is None else own[1],
        upload_bytes=settings.max_upload_bytes if own[2] is None else min(own[2], settings.max_upload_bytes),
    )


def require_job_slot(session: Session, project_id: str, settings: Settings, *, num_jobs: int = 1) -> None:
    """Raise ``QuotaExceeded`` if ``num_jobs`` more exceed the project's unfinished jobs, or if its bytes are exceeded.

    Concurrent requests do not wait for each other, so together they can exceed the limit by a few jobs.
    """
    quotas = load_quotas(session, project_id, settings)
    _require_stored(session, project_id, quotas)
    if quotas.jobs and (used := count_unfinished(session, project_id, limit=quotas.jobs)) + num_jobs > quotas.jobs:
        new = "" if num_jobs == 1 else f", and this request creates {num_jobs:,}"
        raise QuotaExceeded(
            f"The project has {used:,} unfinished jobs (queued, running, paused){new}; the limit is {quotas.jobs:,}. "
            "Wait until some finish, or cancel some, then send this request again. GET /v1/usage shows the number.",
            extra={"quota": "jobs", "limit": quotas.jobs, "used": used},
        )


def require_storage(session: Session, project_id: str, settings: Settings) -> None:
    """Raise ``QuotaExceeded`` if the project exceeds its stored bytes; call it after the file was added."""
    _require_stored(session, project_id, load_quotas(session, project_id, settings))


def count_unfinished(session: Session, project_id: str, *, limit: int | None = None) -> int:
    """Count the unfinished jobs, up to ``limit``."""
    unfinished = select(Job.id).where(Job.project_id == project_id, Job.status.in_(UNFINISHED)).limit(limit)
    return session.scalars(select(func.count()).select_from(unfinished.subquery())).one()


def get_stored_bytes(session: Session, project_id: str) -> int:
    """Return the bytes of the project's datasets, models, uploads, artifacts and checkpoints."""
    statement = select(ProjectUsage.stored_bytes).where(ProjectUsage.project_id == project_id)
    # Negative only between an upgrade and the recount: an older version did not count its checkpoints.
    return max(0, session.scalars(statement).one_or_none() or 0)


def add_stored(session: Session, project_id: str, num_bytes: int) -> None:
    """Add ``num_bytes`` (may be negative) to the counter, in the transaction that adds or removes the files.

    Locks the counter until the transaction ends: lock jobs, datasets and models before, never after.
    """
    if not num_bytes:
        return
    statement = insert_or_conflict(session, ProjectUsage).values(project_id=project_id, stored_bytes=num_bytes)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["project_id"],
            set_={"stored_bytes": ProjectUsage.stored_bytes + num_bytes},
        ).execution_options(synchronize_session=False)
    )


def recount(session: Session, project_id: str) -> int:
    """Compute the counter again from the rows; return its error in bytes.

    The counter is locked first. So the sums see every transaction that has updated the counter, and any other
    transaction updates it afterwards.
    """
    insert = insert_or_conflict(session, ProjectUsage).values(project_id=project_id, stored_bytes=0)
    session.execute(insert.on_conflict_do_nothing())
    usage = session.scalars(select(ProjectUsage).where(ProjectUsage.project_id == project_id).with_for_update()).one()
    actual_bytes = sum_stored_bytes(session, project_id)
    error_bytes, usage.stored_bytes = usage.stored_bytes - actual_bytes, actual_bytes
    session.flush()
    return error_bytes


def sum_stored_bytes(session: Session, project_id: str) -> int:
    """Sum the sizes in all rows of the project."""
    # A student shares its file with its job's artifact; it counts for the model only once the job is deleted.
    own = Model.job_id.is_(None) | ~select(Job.id).where(Job.id == Model.job_id).exists()
    sums = (
        select(func.sum(Artifact.size_bytes)).where(Artifact.project_id == project_id),
        select(func.sum(Dataset.size_bytes)).where(Dataset.project_id == project_id),
        select(func.sum(Upload.received_bytes)).where(Upload.project_id == project_id),
        select(func.sum(Model.size_bytes)).where(Model.project_id == project_id, own),
        _checkpoint_bytes(project_id, on_postgresql=is_postgresql(session)),
    )
    return sum(int(session.scalars(statement).one() or 0) for statement in sums)


def _require_stored(session: Session, project_id: str, quotas: Quotas) -> None:
    if quotas.stored_bytes and (used := get_stored_bytes(session, project_id)) > quotas.stored_bytes:
        raise QuotaExceeded(
            "Datasets, models, uploads, artifacts and checkpoints of the project, including this upload, take "
            f"{used:,} bytes; the limit is {quotas.stored_bytes:,}. Delete objects that are no longer needed (DELETE "
            "/v1/datasets/…, /v1/models/…, /v1/uploads/…, /v1/jobs/… with its checkpoints), or have the limit raised.",
            extra={"quota": "stored_bytes", "limit": quotas.stored_bytes, "used": used},
        )


def _checkpoint_bytes(project_id: str, *, on_postgresql: bool) -> Select[int]:
    """Sum the sizes of all checkpoint files; the column ``size_bytes`` covers only the weights."""
    elements = func.json_array_elements if on_postgresql else func.json_each
    files = elements(Checkpoint.files).table_valued(column("value", JSON))
    value = files.c.value
    size_bytes = value.op("->>")("size_bytes") if on_postgresql else func.json_extract(value, "$.size_bytes")
    # Selected by job, because the index of jobs starts with the project.
    of_project = Checkpoint.job_id.in_(select(Job.id).where(Job.project_id == project_id))
    return select(func.sum(cast(size_bytes, BigInteger))).select_from(Checkpoint).join(files, true()).where(of_project)
