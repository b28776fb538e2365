"""Create, find, count and delete jobs and their artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session

from core.errors import FieldError, InvalidSpec, InvalidState, NotFound
from core.ids import new_id
from core.job_warnings import JobWarning, merge_warnings
from core.store import checkpoints, counters, events, job_counts, keys
from core.store.counters import JOBS_CREATED, Observation
from core.store.db import is_postgresql, utc_now
from core.store.events import TERMINAL_TYPES
from core.store.job_counts import Group
from core.store.job_metrics import method_name
from core.store.jobs.actions import lock, next_actions
from core.store.jobs.row_values import initial_progress
from core.store.jobs.warnings import record_warnings
from core.store.keys import Caller
from core.store.pagination import not_found, require_id
from core.store.quotas import add_stored
from core.store.references import require_unreferenced
from core.store.tables import Artifact, Dataset, Event, Job, JobReference, Model

# Events between which a worker holds the job.
_START_TYPE = "job.started"
_END_TYPES = frozenset({"job.queued", "job.paused", "worker.lost"}) | TERMINAL_TYPES

# Objects that a job can read, by id prefix, with the required status.
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
    warnings: Sequence[JobWarning] = (),
    sweep_id: str | None = None,
    sweep_point: Mapping[str, Any] | None = None,
    request_id: str | None = None,
    traceparent: str | None = None,
) -> Job:
    """Queue a job. Raises ``InvalidSpec`` if its dataset or an object of ``references`` cannot be read.

    These inputs are locked until the transaction ends, so that they cannot be deleted meanwhile.
    ``request_id`` and ``traceparent`` connect the logs and traces of its attempts with the request.
    """
    inputs = tuple(dict.fromkeys((dataset_id, *references)))
    sources = _require_inputs(session, project_id, spec, dataset_id, inputs[1:])
    inputs = tuple(dict.fromkeys((*inputs, *sources)))
    job = Job(
        id=new_id("job"),
        project_id=project_id,
        name=name,
        status="queued",
        stages=[],
        progress=initial_progress(total_steps),
        spec=dict(spec),
        resolved=resolved,
        dataset_id=dataset_id,
        priority=priority,
        accelerator=accelerator,
        warnings=merge_warnings((), warnings),
        metadata_=dict(metadata or {}),
        sweep_id=sweep_id,
        sweep_point=None if sweep_point is None else dict(sweep_point),
        request_id=request_id,
        traceparent=traceparent,
        created_at=utc_now(session),
    )
    session.add(job)
    session.flush()
    job_counts.add(session, {Group.of_job(job): 1})
    counters.record(session, [Observation(JOBS_CREATED, (method_name(spec),))])
    session.add_all(JobReference(job_id=job.id, object_id=object_id, project_id=project_id) for object_id in inputs)
    events.record(session, job.id, "job.created", "Queued; waiting for a worker.", data={"status": "queued"})
    record_warnings(session, job.id, warnings)
    return job


def get(session: Session, project_id: str, job_id: str) -> Job:
    """Load a job of the project. Raises ``NotFound``."""
    require_id(job_id, "job", "job")
    job = session.scalars(select(Job).where(Job.id == job_id, Job.project_id == project_id)).one_or_none()
    if job is None:
        raise not_found("job", job_id)
    return job


def get_as_caller(session: Session, caller: Caller, job_id: str) -> Job:
    """Load a job for a caller who was authenticated before; one statement reads the job and checks the key.

    Raises ``NotFound``, and ``NotAuthenticated`` if the key is no longer active, or the token has expired.
    """
    if caller.subject is not None:
        keys.require_unexpired(session, caller)
        return get(session, caller.project_id, job_id)
    require_id(job_id, "job", "job")
    params = {"job_id": job_id, "project_id": caller.project_id} | keys.active_key_params(session, caller.key_id)
    job = session.scalars(_caller_query(on_postgresql=is_postgresql(session)), params).one_or_none()
    if job is None:
        keys.load_caller(session, caller.key_id)
        raise not_found("job", job_id)
    return job


@cache
def _caller_query(*, on_postgresql: bool) -> Select[Job]:
    """Build the query of :func:`get_as_caller`; cached, because building it takes longer than running it."""
    is_job = (Job.id == bindparam("job_id"), Job.project_id == bindparam("project_id"))
    return select(Job).where(*is_job, keys.active_key_exists(on_postgresql=on_postgresql))


def delete(session: Session, project_id: str, job_id: str) -> list[str]:
    """Delete a finished job with its events, metrics, checkpoints and artifacts; its student model stays.

    Returns the keys of files without a reference: delete them after the commit, or leave them to garbage collection.
    Raises ``NotFound``, ``InvalidState``, ``InUse``.
    """
    job = lock(session, project_id, job_id)
    if not job.is_terminal:
        raise InvalidState(
            f"A job that is {job.status} cannot be deleted; cancel it first.", extra={"next_actions": next_actions(job)}
        )
    require_unreferenced(session, job.id, "job's student")
    artifacts = session.execute(select(Artifact.key, Artifact.size_bytes).where(Artifact.job_id == job.id)).all()
    checkpoint_files = checkpoints.list_files(session, job.id)
    file_keys = {key for key, _ in artifacts} | {file.key for file in checkpoint_files}
    job_bytes = sum(size_bytes for _, size_bytes in artifacts) + sum(file.size_bytes for file in checkpoint_files)
    model_bytes = 0  # of the student, which stays as a model
    for files, size_bytes in session.execute(select(Model.files, Model.size_bytes).where(Model.job_id == job.id)):
        file_keys -= {file["key"] for file in files}
        model_bytes += size_bytes or 0
    job_counts.add(session, {Group.of_job(job): -1})
    session.execute(sql_delete(Job).where(Job.id == job.id).execution_options(synchronize_session=False))
    session.expunge(job)
    add_stored(session, project_id, model_bytes - job_bytes)
    return sorted(file_keys)


def list_artifacts(session: Session, project_id: str, job_id: str) -> list[Artifact]:
    """List the artifacts of a job by name; none before it has succeeded. Raises ``NotFound``."""
    get(session, project_id, job_id)
    return list(session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)))


def get_artifact(session: Session, project_id: str, job_id: str, name: str) -> Artifact:
    """Load an artifact. Raises ``NotFound``, which lists the existing artifacts."""
    artifacts = {artifact.name: artifact for artifact in list_artifacts(session, project_id, job_id)}
    if name not in artifacts:
        existing = f"it has {', '.join(artifacts)}" if artifacts else "it has none until it has succeeded"
        raise NotFound(f"This job has no artifact {name[:60]!r}; {existing}.")
    return artifacts[name]


def _require_inputs(
    session: Session, project_id: str, spec: Mapping[str, Any], dataset_id: str, others: Sequence[str]
) -> list[str]:
    """Lock the inputs and return the jobs of checkpoints among them, which must not be deleted either."""
    errors, sources = [], []
    dataset_status = select(Dataset.status).where(Dataset.id == dataset_id, Dataset.project_id == project_id)
    if (status := session.scalars(dataset_status.with_for_update(read=True)).one_or_none()) != "ready":
        detail = f"dataset {dataset_id} is {status}, not ready" if status else f"there is no dataset {dataset_id}"
        errors.append(FieldError("/dataset", detail))
    for object_id in others:
        if object_id.startswith("ckpt_"):
            try:
                sources.append(checkpoints.retain(session, project_id, object_id).job_id)
            except NotFound as error:
                errors.extend(FieldError(pointer, error.detail) for pointer in _pointers(spec, object_id))
            continue
        table, needed = _READABLE[object_id.partition("_")[0]]
        statement = select(table.status).where(table.id == object_id, table.project_id == project_id)
        if (status := session.scalars(statement.with_for_update(read=True)).one_or_none()) != needed:
            detail = f"{object_id} is {status}, not {needed}" if status else f"there is no {object_id} in this project"
            errors.extend(FieldError(pointer, detail) for pointer in _pointers(spec, object_id))
    if errors:
        raise InvalidSpec.for_fields(errors)
    return sources


def _pointers(spec: Mapping[str, Any], object_id: str) -> list[str]:
    """Return the JSON pointers of the spec fields that refer to this object."""
    fields = {f"{at}/weights": model.get("weights") for at, model in _models(spec).items()}
    distillations = {f"{at}/distillation": model.get("distillation") for at, model in _models(spec).items()}
    for at, owner in {"": spec, **distillations}.items():
        fields |= {f"{at}/method/{name}": value for name, value in ((owner or {}).get("method") or {}).items()}
    return [pointer for pointer, value in fields.items() if value == object_id]


def _models(spec: Mapping[str, Any], at: str = "") -> dict[str, Mapping[str, Any]]:
    """Return the models of a spec or distillation by pointer, with those of distillations inside."""
    models = {f"{at}/student": spec["student"]} if "student" in spec else {}
    models |= {f"{at}/teachers/{k}": teacher for k, teacher in enumerate(spec.get("teachers", ()))}
    inner = {pointer: model.get("distillation") for pointer, model in models.items()}
    for pointer, distillation in inner.items():
        models |= _models(distillation, f"{pointer}/distillation") if distillation else {}
    return models


def jobs_by_status(session: Session) -> dict[str, int]:
    """Return the number of jobs of all projects by status; every status is a key."""
    return job_counts.count_by_status(session)


def running_seconds(session: Session, job_id: str) -> float:
    """Return the seconds that workers have held the job, over all attempts and until now if it is running.

    Queueing and pauses do not count. A lost worker held the job until its loss was detected.
    """
    statement = select(Event.type, Event.created_at).where(
        Event.job_id == job_id, Event.type.in_({_START_TYPE, *_END_TYPES})
    )
    total, started_at = 0.0, None
    for type_, created_at in session.execute(statement.order_by(Event.seq)):
        if started_at is not None:
            total += _seconds_between(started_at, created_at)
        started_at = created_at if type_ == _START_TYPE else None
    return total if started_at is None else total + _seconds_between(started_at, utc_now(session))


def _seconds_between(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
