"""Creating, finding and deleting jobs, and the files that they hand out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session

from core.errors import FieldError, InvalidSpec, InvalidState, NotFound
from core.ids import new_id
from core.store import checkpoints, events, keys
from core.store.db import utc_now
from core.store.events import TERMINAL_TYPES
from core.store.jobs.actions import lock, next_actions
from core.store.jobs.row_values import first_progress
from core.store.keys import Caller
from core.store.pagination import Page, missing, newest_first, require_id
from core.store.quotas import add_stored
from core.store.references import require_unreferenced
from core.store.tables import TERMINAL, Artifact, Dataset, Event, Job, JobReference, Model

# What a job may read, by the prefix of its id, and the status in which it can be read.
_READABLE: dict[str, tuple[type[Dataset | Job | Model], str]] = {
    "ds": (Dataset, "ready"),
    "job": (Job, "succeeded"),
    "mdl": (Model, "ready"),
}


def create(
    session: Session,
    project_id: str,
    *,
    spec: Mapping[str, Any],
    resolved: bool,
    dataset_id: str,
    references: Iterable[str] = (),
    name: str | None = None,
    priority: int = 0,
    accelerator: str = "auto",
    metadata: Mapping[str, Any] | None = None,
    total_steps: int | None = None,
) -> Job:
    """Queue a job. Raises ``InvalidSpec`` where its dataset or what ``references`` names cannot be read.

    What the job reads is locked until the transaction ends, so that nobody deletes it meanwhile.
    """
    inputs = tuple(dict.fromkeys((dataset_id, *references)))
    _require_inputs(session, project_id, spec, dataset_id, inputs[1:])
    job = Job(
        id=new_id("job"),
        project_id=project_id,
        name=name,
        status="queued",
        stages=[],
        progress=first_progress(total_steps),
        spec=dict(spec),
        resolved=resolved,
        dataset_id=dataset_id,
        priority=priority,
        accelerator=accelerator,
        metadata_=dict(metadata or {}),
        created_at=utc_now(session),
    )
    session.add(job)
    session.flush()
    session.add_all(JobReference(job_id=job.id, object_id=one, project_id=project_id) for one in inputs)
    events.record(session, job.id, "job.created", "Queued; waiting for a worker.", data={"status": "queued"})
    return job


def get(session: Session, project_id: str, job_id: str) -> Job:
    """One job of the project. Raises ``NotFound``."""
    require_id(job_id, "job", "job")
    job = session.scalars(select(Job).where(Job.id == job_id, Job.project_id == project_id)).one_or_none()
    if job is None:
        raise missing("job", job_id)
    return job


def get_for(session: Session, who: Caller, job_id: str) -> Job:
    """One job for a caller who was authenticated before: key and job are looked at in one statement.

    Raises ``NotFound``, and ``NotAuthenticated`` where the key is not good any more.
    """
    require_id(job_id, "job", "job")
    mine = {"job_id": job_id, "project_id": who.project_id} | keys.in_force_of(session, who.key_id)
    job = session.scalars(_for_caller(session.get_bind().dialect.name), mine).one_or_none()
    if job is None:
        keys.caller_of(session, who.key_id)
        raise missing("job", job_id)
    return job


@cache
def _for_caller(dialect: str) -> Select[Job]:
    """Made once: to make such a statement takes longer than to ask it."""
    mine = (Job.id == bindparam("job_id"), Job.project_id == bindparam("project_id"))
    return select(Job).where(*mine, keys.active(dialect))


def list_jobs(
    session: Session,
    project_id: str,
    *,
    status: str | Sequence[str] | None = None,
    limit: int = 20,
    after: str | None = None,
) -> Page[Job]:
    """The project's jobs, newest first. Raises ``InvalidRequest`` for an ``after`` that is no job's id."""
    page = newest_first(session, of_project(project_id, status), Job.id, limit=limit, after=after, prefix="job")
    found = select(Job).where(Job.id.in_(page.items)).order_by(Job.id.desc())
    return Page(session.scalars(found).all(), page.has_more)


def of_project(project_id: str, status: str | Sequence[str] | None) -> Select[str]:
    """The ids alone: an index holds them all, so that no planner thinks of walking through the rows of others."""
    statement = select(Job.id).where(Job.project_id == project_id)
    if status is None:
        return statement
    return statement.where(Job.status == status if isinstance(status, str) else Job.status.in_(status))


def delete(session: Session, project_id: str, job_id: str) -> list[str]:
    """Delete a finished job with its events, metrics, checkpoints and artefacts; its student model stays.

    Returns the keys of files that nothing names any more: delete them after the commit, or leave them
    to the collector. Raises ``NotFound``, ``InvalidState``, ``InUse``.
    """
    job = lock(session, project_id, job_id)
    if not job.terminal:
        raise InvalidState(
            f"A job that is {job.status} cannot be deleted; cancel it first.", extra={"next_actions": next_actions(job)}
        )
    require_unreferenced(session, job.id, "job's student")
    files_of_job = session.execute(select(Artifact.key, Artifact.size_bytes).where(Artifact.job_id == job.id)).all()
    checkpoint_files = checkpoints.files_of(session, job.id)
    keys = {key for key, _ in files_of_job} | {file.key for file in checkpoint_files}
    gone_bytes = sum(size_bytes for _, size_bytes in files_of_job) + sum(file.size_bytes for file in checkpoint_files)
    kept_bytes = 0  # of a student that stays as a model
    for files, size_bytes in session.execute(select(Model.files, Model.size_bytes).where(Model.job_id == job.id)):
        keys -= {file["key"] for file in files}
        kept_bytes += size_bytes or 0
    session.execute(sql_delete(Job).where(Job.id == job.id).execution_options(synchronize_session=False))
    session.expunge(job)
    add_stored(session, project_id, kept_bytes - gone_bytes)
    return sorted(keys)


def list_artifacts(session: Session, project_id: str, job_id: str) -> list[Artifact]:
    """What a succeeded job hands out, by name; nothing before. Raises ``NotFound``."""
    get(session, project_id, job_id)
    return list(session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)))


def get_artifact(session: Session, project_id: str, job_id: str, name: str) -> Artifact:
    """One of them. Raises ``NotFound``, naming what there is."""
    found = {artifact.name: artifact for artifact in list_artifacts(session, project_id, job_id)}
    if name not in found:
        there_is = f"it has {', '.join(found)}" if found else "it has none until it has succeeded"
        raise NotFound(f"This job has no artefact {name[:60]!r}; {there_is}.")
    return found[name]


def _require_inputs(
    session: Session, project_id: str, spec: Mapping[str, Any], dataset_id: str, others: Sequence[str]
) -> None:
    errors = []
    of_project = select(Dataset.status).where(Dataset.id == dataset_id, Dataset.project_id == project_id)
    if (status := session.scalars(of_project.with_for_update(read=True)).one_or_none()) != "ready":
        detail = f"dataset {dataset_id} is {status}, not ready" if status else f"there is no dataset {dataset_id}"
        errors.append(FieldError("/dataset", detail))
    for one in others:
        table, needed = _READABLE[one.partition("_")[0]]
        statement = select(table.status).where(table.id == one, table.project_id == project_id)
        if (status := session.scalars(statement.with_for_update(read=True)).one_or_none()) != needed:
            detail = f"{one} is {status}, not {needed}" if status else f"there is no {one} in this project"
            errors.extend(FieldError(pointer, detail) for pointer in _pointers(spec, one))
    if errors:
        raise InvalidSpec("; ".join(f"{e.pointer}: {e.detail}" for e in errors), errors=errors)


def _pointers(spec: Mapping[str, Any], reference: str) -> list[str]:
    models = {"/student/weights": spec["student"]}
    models |= {f"/teachers/{k}/weights": teacher for k, teacher in enumerate(spec.get("teachers", ()))}
    places = {pointer: model.get("weights") for pointer, model in models.items()}
    places |= {f"/method/{name}": value for name, value in spec.get("method", {}).items()}
    return [pointer for pointer, named in places.items() if named == reference]


def jobs_by_status(session: Session) -> dict[str, int]:
    """How many jobs there are of each status; every status is named."""
    found = {row[0]: row[1] for row in session.execute(select(Job.status, func.count()).group_by(Job.status))}
    return {status: found.get(status, 0) for status in ("queued", "running", "paused", *TERMINAL)}


def waiting_uploads(session: Session) -> dict[str, int]:
    """How many datasets and models are not ready yet."""
    counts = {}
    for what, table in (("datasets", Dataset), ("models", Model)):
        waiting = select(func.count()).select_from(table).where(table.status == "processing")
        counts[what] = session.scalars(waiting).one()
    return counts


_BEGINS = "job.started"
_ENDS = frozenset({"job.queued", "job.paused", "worker.lost"}) | TERMINAL_TYPES


def running_seconds(session: Session, job_id: str) -> float:
    """The time that workers have had the job, all attempts together, up to now for one that runs.

    Waits and pauses do not count. A worker that was lost had the job until that was noticed.
    """
    statement = select(Event.type, Event.created_at).where(Event.job_id == job_id, Event.type.in_({_BEGINS, *_ENDS}))
    total, began = 0.0, None
    for type_, moment in session.execute(statement.order_by(Event.seq)):
        if began is not None:
            total += _between(began, moment)
        began = moment if type_ == _BEGINS else None
    return total if began is None else total + _between(began, utc_now(session))


def _between(began: datetime, ended: datetime) -> float:
    return max(0.0, (ended - began).total_seconds())
