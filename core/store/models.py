"""Models: uploaded weights, which the ingest worker checks, and students of jobs, which are ready immediately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.ids import new_id
from core.spec.info import ModelInfo
from core.store import ingest_leases
from core.store.artifact_store import StoredFile
from core.store.db import is_postgresql, utc_now
from core.store.ingest_leases import IngestLeaseToken
from core.store.job_leases import LeaseToken, lock_job
from core.store.pagination import Page, not_found, paginate_newest_first, require_id
from core.store.quotas import add_stored
from core.store.references import require_unreferenced
from core.store.search import word_conditions
from core.store.tables import Job, Model


def create(
    session: Session,
    project_id: str,
    *,
    name: str,
    architecture: str,
    arguments: Mapping[str, Any],
    upload_key: str | None = None,
    upload_id: str | None = None,
    normalization: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    size_bytes: int | None = None,
    model_id: str | None = None,
) -> Model:
    """Add an uploaded model to check, from a file or a resumable upload.

    ``size_bytes`` is the size of the file. ``upload_id``: the upload, which this transaction has locked.
    """
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
        upload_id=upload_id,
        size_bytes=size_bytes,
        created_at=utc_now(session),
    )
    session.add(model)
    session.flush()
    add_stored(session, project_id, size_bytes or 0)
    return model


def create_student(
    session: Session,
    lease: LeaseToken,
    *,
    name: str,
    info: ModelInfo,
    files: Sequence[StoredFile],
    parent_id: str | None = None,
) -> Model:
    """Add a job's student or a compressed form of it, in the transaction in which the job succeeds.

    ``files`` are the published ``config.json`` and weights of the job. They are stored as long as the model or the job
    exists. ``parent_id`` is the model that it was made from. Raises ``LeaseLost``.
    """
    job = lock_job(session, lease)
    now = utc_now(session)
    model = Model(
        id=new_id("mdl"),
        project_id=job.project_id,
        name=name,
        job_id=job.id,
        parent_id=parent_id,
        status="ready",
        architecture=info.architecture,
        arguments=info.arguments,
        normalization=None if info.normalization is None else info.normalization.model_dump(mode="json"),
        classes=None if info.classes is None else list(info.classes),
        files=[file.to_json() for file in files],
        created_at=now,
        finished_at=now,
        **_info_values(info),
    )
    session.add(model)
    session.flush()
    return model


def model_info(model: Model) -> ModelInfo:
    """Return the :class:`ModelInfo` of a ready model, which the inspector and a run need."""
    return ModelInfo.model_validate(model.info)


def get(session: Session, project_id: str, model_id: str) -> Model:
    """Load a model of the project. Raises ``NotFound``."""
    return _find(session, project_id, model_id, lock=False)


def list_models(
    session: Session, project_id: str, *, search: str = "", limit: int = 20, after: str | None = None
) -> Page[Model]:
    """List the project's models, newest first.

    The name, id or architecture of each contains every word of ``search``.
    """
    words = word_conditions(search, (Model.id, Model.name, Model.architecture), on_postgresql=is_postgresql(session))
    statement = select(Model).where(Model.project_id == project_id, *words)
    return paginate_newest_first(session, statement, Model.id, limit=limit, after=after, prefix="mdl")


def delete(session: Session, project_id: str, model_id: str) -> list[str]:
    """Delete a model. If it is a student, its job keeps the artifacts.

    Returns the keys of files without a reference: delete them after the commit, or leave them to garbage collection.
    Raises ``NotFound``, and ``InUse`` if an unfinished job reads it.
    """
    model = _find(session, project_id, model_id, lock=True)
    require_unreferenced(session, model.id, "model")
    # A student shares its files with its job; garbage collection deletes them once both are deleted.
    keys = [file["key"] for file in model.files] if model.job_id is None else []
    if model.job_id is None or session.get(Job, model.job_id) is None:
        add_stored(session, project_id, -(model.size_bytes or 0))
    session.delete(model)
    session.flush()
    return keys if model.upload_key is None else [*keys, model.upload_key]


# --- the ingest worker ------------------------------------------------------------------------------


def claim(session: Session, *, worker_id: str, lease_seconds: float) -> Model | None:
    """Claim the oldest waiting model; None if there is none. Continue with ``IngestLeaseToken.from_row``."""
    return ingest_leases.claim(session, Model, worker_id=worker_id, lease_seconds=lease_seconds)


def count_claimable(session: Session) -> int:
    """Count the models that can be claimed now."""
    return ingest_leases.count_claimable(session, Model)


def renew_lease(session: Session, lease: IngestLeaseToken, lease_seconds: float) -> None:
    """Renew the lease. Raises ``LeaseLost``, also if the model was deleted meanwhile."""
    ingest_leases.renew_lease(session, Model, lease, lease_seconds)


def release(session: Session, lease: IngestLeaseToken) -> Model:
    """Release the model for another worker. Raises ``LeaseLost``."""
    return ingest_leases.release(session, Model, lease)


def mark_ready(session: Session, lease: IngestLeaseToken, *, files: Sequence[StoredFile], info: ModelInfo) -> Model:
    """Mark the model as ready: its weights match its architecture and one forward pass succeeded.

    Raises ``LeaseLost``.
    """
    documents = [file.to_json() for file in files]
    return ingest_leases.mark_ready(session, Model, lease, files=documents, upload_key=None, **_info_values(info))


def fail(session: Session, lease: IngestLeaseToken, error: Mapping[str, Any]) -> Model:
    """Mark the model as failed. Raises ``LeaseLost``."""
    return ingest_leases.fail(session, Model, lease, dict(error), upload_key=None, size_bytes=None)


def _info_values(info: ModelInfo) -> dict[str, Any]:
    return {
        "num_classes": info.num_classes,
        "channels": info.channels,
        "image_size": info.image_size,
        "parameters": info.parameters,
        "size_bytes": info.size_bytes,
        "info": info.model_dump(mode="json"),
    }


def _find(session: Session, project_id: str, model_id: str, *, lock: bool) -> Model:
    require_id(model_id, "mdl", "model")
    statement = select(Model).where(Model.id == model_id, Model.project_id == project_id)
    model = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if model is None:
        raise not_found("model", model_id)
    return model
