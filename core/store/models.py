"""Models: uploaded weights, checked by the ingest worker, and the students of jobs, ready from the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.ids import new_id
from core.spec.facts import ModelInfo
from core.store import ingest_leases
from core.store.artifact_store import StoredFile
from core.store.db import utc_now
from core.store.ingest_leases import IngestLeaseToken
from core.store.job_leases import LeaseToken, lock_job
from core.store.pagination import Page, missing, newest_first, require_id
from core.store.quotas import add_stored
from core.store.references import require_unreferenced
from core.store.tables import Job, Model


def create(
    session: Session,
    project_id: str,
    *,
    name: str,
    architecture: str,
    arguments: Mapping[str, Any],
    upload_key: str,
    normalization: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    size_bytes: int | None = None,
    model_id: str | None = None,
) -> Model:
    """Add an uploaded model that waits to be checked; ``size_bytes`` are those of the file that was sent."""
    model = Model(
        id=model_id or new_id("mdl"),
        project_id=project_id,
        name=name,
        status="processing",
        architecture=architecture,
        arguments=dict(arguments),
        normalization=None if normalization is None else dict(normalization),
        classes=None if classes is None else list(classes),
        upload_key=upload_key,
        size_bytes=size_bytes,
        created_at=utc_now(session),
    )
    session.add(model)
    session.flush()
    add_stored(session, project_id, size_bytes or 0)
    return model


def create_student(
    session: Session, attempt: LeaseToken, *, name: str, facts: ModelInfo, files: Sequence[StoredFile]
) -> Model:
    """Add a job's student, in the unit of work in which the job succeeds. Raises ``LeaseLost``.

    ``files`` are the job's own published ``config.json`` and ``model.safetensors``: they are kept for as
    long as the model or the job is there.
    """
    job = lock_job(session, attempt)
    now = utc_now(session)
    model = Model(
        id=new_id("mdl"),
        project_id=job.project_id,
        name=name,
        job_id=job.id,
        status="ready",
        architecture=facts.architecture,
        arguments=facts.arguments,
        normalization=None if facts.normalization is None else facts.normalization.model_dump(mode="json"),
        classes=None if facts.classes is None else list(facts.classes),
        files=[file.as_json() for file in files],
        created_at=now,
        finished_at=now,
        **_known(facts),
    )
    session.add(model)
    session.flush()
    return model


def facts(model: Model) -> ModelInfo:
    """What the inspector and a run need to know of a model that is ready."""
    return ModelInfo.model_validate(model.facts)


def get(session: Session, project_id: str, model_id: str) -> Model:
    """One model of the project. Raises ``NotFound``."""
    return _find(session, project_id, model_id, lock=False)


def list_models(session: Session, project_id: str, *, limit: int = 20, after: str | None = None) -> Page[Model]:
    """The project's models, newest first."""
    statement = select(Model).where(Model.project_id == project_id)
    return newest_first(session, statement, Model.id, limit=limit, after=after, prefix="mdl")


def delete(session: Session, project_id: str, model_id: str) -> list[str]:
    """Delete a model. Its job, if a job made it, keeps its own artefacts.

    Returns the keys of files that nothing names any more: delete them after the commit, or leave them
    to the collector. Raises ``NotFound``, and ``InUse`` where an unfinished job reads it.
    """
    model = _find(session, project_id, model_id, lock=True)
    require_unreferenced(session, model.id, "model")
    # A student's files are its job's; the collector sees to them once neither is there.
    keys = [file["key"] for file in model.files] if model.job_id is None else []
    if model.job_id is None or session.get(Job, model.job_id) is None:
        add_stored(session, project_id, -(model.size_bytes or 0))
    session.delete(model)
    session.flush()
    return keys if model.upload_key is None else [*keys, model.upload_key]


# --- the ingest worker ------------------------------------------------------------------------------


def claim(session: Session, *, worker_id: str, lease_seconds: float) -> Model | None:
    """Take the oldest model that waits; None if there is none. Continue with ``Holding.of(model)``."""
    return ingest_leases.claim(session, Model, worker_id=worker_id, lease_seconds=lease_seconds)


def waiting(session: Session) -> int:
    """How many models could be claimed now."""
    return ingest_leases.waiting(session, Model)


def renew_lease(session: Session, holding: IngestLeaseToken, lease_seconds: float) -> None:
    """Renew the lease. Raises ``LeaseLost``, also where the model was deleted meanwhile."""
    ingest_leases.renew_lease(session, Model, holding, lease_seconds)


def release(session: Session, holding: IngestLeaseToken) -> Model:
    """Leave it for another worker. Raises ``LeaseLost``."""
    return ingest_leases.release(session, Model, holding)


def ready(session: Session, holding: IngestLeaseToken, *, files: Sequence[StoredFile], facts: ModelInfo) -> Model:
    """The model was loaded strictly and run once. Raises ``LeaseLost``."""
    documents = [file.as_json() for file in files]
    return ingest_leases.ready(session, Model, holding, files=documents, upload_key=None, **_known(facts))


def fail(session: Session, holding: IngestLeaseToken, error: Mapping[str, Any]) -> Model:
    """The model cannot be used. Raises ``LeaseLost``."""
    return ingest_leases.fail(session, Model, holding, dict(error), upload_key=None, size_bytes=None)


def _known(facts: ModelInfo) -> dict[str, Any]:
    return {
        "num_classes": facts.num_classes,
        "channels": facts.channels,
        "image_size": facts.image_size,
        "parameters": facts.parameters,
        "size_bytes": facts.size_bytes,
        "facts": facts.model_dump(mode="json"),
    }


def _find(session: Session, project_id: str, model_id: str, *, lock: bool) -> Model:
    require_id(model_id, "mdl", "model")
    statement = select(Model).where(Model.id == model_id, Model.project_id == project_id)
    found = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if found is None:
        raise missing("model", model_id)
    return found
