"""Data of the pages of models, without HTTP: each model with the figures and the data of the job that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import structlog
from sqlalchemy import select

from api.models.service import lineage_out, model_out
from core.errors import StorageFailed
from core.store import jobs, models
from core.store.artifact_store import ArtifactStore, StoredFile, parse_stored_files
from core.store.db import Database, Session
from core.store.tables import Dataset, Job, Model

REPORT = "report.json"
MAX_REPORT_BYTES = 8 * 1024**2

log = structlog.get_logger(__name__)

Document = Mapping[str, Any]
ModelKind = Literal["upload", "student", "compressed"]
_Row = TypeVar("_Row", Job, Model, Dataset)


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model with data of its job, its parent and the dataset of its job.

    ``top1`` is that of the test split of the job's dataset; None for an upload and for a model whose job was deleted.
    ``dataset`` has ``id``, ``name`` and ``license`` of that dataset, if it exists.
    """

    model: Document
    kind: ModelKind
    top1: float | None
    parent_name: str | None
    job_name: str | None
    dataset: Document | None


@dataclass(frozen=True, slots=True)
class ModelList:
    """One page of the models."""

    models: Sequence[RegisteredModel]
    has_more: bool


@dataclass(frozen=True, slots=True)
class ModelPage:
    """Data of a model's page, read in one transaction. ``licenses`` has those of pretrained weights by their name."""

    entry: RegisteredModel
    files: Sequence[StoredFile]
    lineage: Document
    licenses: Mapping[str, str]


def list_models(database: Database, project_id: str, *, search: str = "", limit: int, after: str | None) -> ModelList:
    """Read a page of the models, newest first."""
    with database.read() as session:
        found = models.list_models(session, project_id, search=search, limit=limit, after=after)
        return ModelList(_register(session, project_id, found.items), found.has_more)


def read_model(database: Database, store: ArtifactStore, project_id: str, model_id: str) -> ModelPage:
    """Read a model. Raises ``NotFound``."""
    with database.read() as session:
        row = models.get(session, project_id, model_id)
        (entry,) = _register(session, project_id, [row])
        files = parse_stored_files(row.files)
        document = lineage_out(session, project_id, model_id).model_dump(mode="json")
        report = _report_key(session, project_id, row.job_id) if entry.job_name is not None else None
    return ModelPage(entry, files, document, _licenses(store, report))  # no transaction waits for the store


def find_file(database: Database, project_id: str, model_id: str, name: str) -> StoredFile | None:
    """Find a file of a model by its name. Raises ``NotFound`` for an unknown model."""
    with database.read() as session:
        files = parse_stored_files(models.get(session, project_id, model_id).files)
    return next((file for file in files if file.name == name), None)


def _register(session: Session, project_id: str, rows: Sequence[Model]) -> list[RegisteredModel]:
    """Add to each model the data of its job, its parent and its dataset, with one query for each table."""
    jobs_by_id = _by_id(session, Job, project_id, [row.job_id for row in rows])
    parents = _by_id(session, Model, project_id, [row.parent_id for row in rows])
    datasets = _by_id(session, Dataset, project_id, [job.dataset_id for job in jobs_by_id.values()])

    def register(row: Model) -> RegisteredModel:
        job, parent = jobs_by_id.get(row.job_id or ""), parents.get(row.parent_id or "")
        dataset = None if job is None else datasets.get(job.dataset_id)
        is_compressed = row.job_id is not None and parent is not None and parent.job_id == row.job_id
        return RegisteredModel(
            model=model_out(row).model_dump(mode="json"),
            kind="upload" if row.job_id is None else "compressed" if is_compressed else "student",
            top1=_top1(row, job, is_compressed=is_compressed),
            parent_name=None if parent is None else parent.name,
            job_name=None if job is None else job.name or job.id,
            dataset=None if dataset is None else {"id": dataset.id, "name": dataset.name, "license": dataset.license},
        )

    return [register(row) for row in rows]


def _by_id(session: Session, table: type[_Row], project_id: str, ids: Sequence[str | None]) -> dict[str, _Row]:
    wanted = {each for each in ids if each is not None}
    if not wanted:
        return {}
    statement = select(table).where(table.id.in_(wanted), table.project_id == project_id)
    return {row.id: row for row in session.scalars(statement)}


def _top1(model: Model, job: Job | None, *, is_compressed: bool) -> float | None:
    result = (job.result if job is not None else None) or {}
    if not is_compressed:
        return (result.get("student") or {}).get("top1")
    return next((each.get("top1") for each in result.get("compressed", []) if each.get("model") == model.id), None)


def _report_key(session: Session, project_id: str, job_id: str | None) -> str | None:
    if job_id is None:
        return None
    artifacts = jobs.list_artifacts(session, project_id, job_id)
    return next((each.key for each in artifacts if each.name == REPORT and each.size_bytes <= MAX_REPORT_BYTES), None)


def _licenses(store: ArtifactStore, key: str | None) -> dict[str, str]:
    """Read the licenses of pretrained weights from the report of the job; empty if it cannot be read."""
    if key is None:
        return {}
    try:
        document = json.loads(b"".join(store.open(key)))
    except StorageFailed as error:
        log.warning("report.unreadable", key=key, error=error.detail)
        return {}
    return dict(document.get("licenses") or {})
