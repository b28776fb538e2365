"""What a project may have, and what it has: unfinished jobs, stored bytes, the size of one upload.

Unfinished jobs are counted in an index, up to the limit and no further. Stored bytes (datasets, models, artefacts,
checkpoints) are a number kept in the very units of work that add or remove files (:func:`add_stored`);
:func:`recount` makes it anew from the rows, so that what an older version beside this one did, or a bug of ours, does
not stay.

A quota refuses what is new: jobs, retries, uploads. What was accepted ends as it would without one: no checkpoint and
no artefact of a job that runs is ever refused.

The order of locks: the row that counts is the last one. A unit of work locks jobs, datasets and models first and adds
what is stored afterwards, and :func:`recount` locks nothing else; so nobody waits for a job, say, while others wait
for the number.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import JSON, BigInteger, Select, cast, column, func, select, true
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.errors import QuotaExceeded
from core.settings import Settings
from core.store.project_tables import Project, ProjectUsage
from core.store.tables import TERMINAL, Artifact, Checkpoint, Dataset, Job, Model

UNFINISHED = ("queued", "running", "paused")
assert not set(UNFINISHED) & set(TERMINAL)


@dataclass(frozen=True, slots=True)
class Quotas:
    """The most that a project may have. 0: no limit, except for the size of an upload, which always has one."""

    jobs: int
    stored_bytes: int
    upload_bytes: int


def of_project(session: Session, project_id: str, settings: Settings) -> Quotas:
    """The project's own limits, and the settings' where it has none. An upload is never larger than the setting."""
    columns = select(Project.max_jobs, Project.max_stored_bytes, Project.max_upload_bytes)
    own = session.execute(columns.where(Project.id == project_id)).one()
    return Quotas(
        jobs=settings.quota_jobs if own[0] is None else own[0],
        stored_bytes=settings.quota_stored_bytes if own[1] is None else own[1],
        upload_bytes=settings.max_upload_bytes if own[2] is None else min(own[2], settings.max_upload_bytes),
    )


def require_job(session: Session, project_id: str, settings: Settings) -> None:
    """Raise ``QuotaExceeded`` where the project may not have one more unfinished job, or stores too much already.

    Requests at the very same moment do not wait for each other, so together they may go beyond by a few.
    """
    quotas = of_project(session, project_id, settings)
    _require_stored(session, project_id, quotas)
    if quotas.jobs and (used := unfinished(session, project_id, most=quotas.jobs)) >= quotas.jobs:
        raise QuotaExceeded(
            f"The project has {used:,} unfinished jobs (queued, running, paused) and may have {quotas.jobs:,}. "
            "Let some end, or cancel some, and send this again. GET /v1/usage says how many there are.",
            extra={"quota": "jobs", "limit": quotas.jobs, "used": used},
        )


def require_room(session: Session, project_id: str, settings: Settings) -> None:
    """Raise ``QuotaExceeded`` where the project stores more than it may; ask after the file was added."""
    _require_stored(session, project_id, of_project(session, project_id, settings))


def unfinished(session: Session, project_id: str, *, most: int | None = None) -> int:
    """How many jobs are unfinished; counted up to ``most``."""
    found = select(Job.id).where(Job.project_id == project_id, Job.status.in_(UNFINISHED)).limit(most)
    return session.scalars(select(func.count()).select_from(found.subquery())).one()


def stored(session: Session, project_id: str) -> int:
    """Bytes of the project's datasets, models, artefacts and checkpoints, what is still being checked included."""
    found = select(ProjectUsage.stored_bytes).where(ProjectUsage.project_id == project_id)
    # Below 0 it is only between an upgrade and the recount: a version that did not count checkpoints wrote some.
    return max(0, session.scalars(found).one_or_none() or 0)


def add_stored(session: Session, project_id: str, num_bytes: int) -> None:
    """Note that the project stores so much more, or less, in the unit of work that makes it so.

    Locks the number until that ends: jobs, datasets and models are locked before, never after.
    """
    if not num_bytes:
        return
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = insert(ProjectUsage).values(project_id=project_id, stored_bytes=num_bytes)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["project_id"],
            set_={"stored_bytes": ProjectUsage.stored_bytes + num_bytes},
        ).execution_options(synchronize_session=False)
    )


def recount(session: Session, project_id: str) -> int:
    """Make the number anew from the rows; returns by how much it was wrong.

    The number is locked first: a unit of work that has added files adds to it later, and what was committed
    before is seen by the sums.
    """
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    session.execute(insert(ProjectUsage).values(project_id=project_id, stored_bytes=0).on_conflict_do_nothing())
    kept = session.scalars(select(ProjectUsage).where(ProjectUsage.project_id == project_id).with_for_update()).one()
    there_is = counted(session, project_id)
    wrong, kept.stored_bytes = kept.stored_bytes - there_is, there_is
    session.flush()
    return wrong


def counted(session: Session, project_id: str) -> int:
    """What the rows add up to; reads all of them."""
    # A student's file is its job's artefact; once the job is gone it is the model's.
    own = Model.job_id.is_(None) | ~select(Job.id).where(Job.id == Model.job_id).exists()
    sums = (
        select(func.sum(Artifact.size_bytes)).where(Artifact.project_id == project_id),
        select(func.sum(Dataset.size_bytes)).where(Dataset.project_id == project_id),
        select(func.sum(Model.size_bytes)).where(Model.project_id == project_id, own),
        _of_checkpoints(session.get_bind().dialect.name, project_id),
    )
    return sum(int(session.scalars(each).one() or 0) for each in sums)


def _require_stored(session: Session, project_id: str, quotas: Quotas) -> None:
    if quotas.stored_bytes and (used := stored(session, project_id)) > quotas.stored_bytes:
        raise QuotaExceeded(
            "Datasets, models, artefacts and checkpoints of the project, with what was sent now, take "
            f"{used:,} bytes and may take {quotas.stored_bytes:,}. Delete what is not needed any more (DELETE "
            "/v1/datasets/…, /v1/models/…, /v1/jobs/… with its checkpoints), or have the limit raised.",
            extra={"quota": "stored_bytes", "limit": quotas.stored_bytes, "used": used},
        )


def _of_checkpoints(dialect: str, project_id: str) -> Select[int]:
    """All of their files; the column ``size_bytes`` is of the weights alone."""
    on_postgresql = dialect == "postgresql"
    elements = func.json_array_elements if on_postgresql else func.json_each
    files = elements(Checkpoint.files).table_valued(column("value", JSON))
    value = files.c.value
    size_bytes = value.op("->>")("size_bytes") if on_postgresql else func.json_extract(value, "$.size_bytes")
    # By the jobs, whose index begins with the project.
    of_project = Checkpoint.job_id.in_(select(Job.id).where(Job.project_id == project_id))
    return select(func.sum(cast(size_bytes, BigInteger))).select_from(Checkpoint).join(files, true()).where(of_project)
