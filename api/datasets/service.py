"""Logic of the dataset endpoints, without HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from api.datasets.schemas import BuiltinSource, DatasetCreate, DatasetOut, UploadedDataset, UrlSource
from api.multipart import Form
from api.references import check_name
from core.errors import NotAvailable
from core.fetch.targets import NetworkPolicy, parse_target
from core.ids import new_id
from core.ingest_errors import UrlNotAllowed
from core.settings import Settings
from core.spec.dataset_layout import LayoutOptions
from core.store import datasets, quotas
from core.store.artifact_store import ArtifactStore, StoredFile
from core.store.db import Session
from core.store.tables import Dataset

_NAME_CHARACTERS = 200
_NOT_STARTED = {"processed": 0, "total": None, "images_per_second": None}


def check_source(request: DatasetCreate, policy: NetworkPolicy) -> BuiltinSource | UrlSource:
    """Return the source if this version supports it, without any connection or DNS query.

    Raises :class:`NotAvailable`, and :class:`UrlNotAllowed` for a URL that the policy forbids.
    """
    if isinstance(request.source, BuiltinSource):
        return request.source
    if isinstance(request.source, UrlSource):
        try:
            parse_target(request.source.url, policy)
        except UrlNotAllowed as error:
            raise UrlNotAllowed.for_field("/source/url", error.detail) from None
        return request.source
    detail = (
        f"sources of the type {request.source.type} are not available in this version; upload the archive "
        "as multipart/form-data with the part `file`"
    )
    raise NotAvailable.for_field("/source/type", detail)


def create_from_source(
    session: Session,
    project_id: str,
    settings: Settings,
    *,
    name: str | None,
    source: BuiltinSource | UrlSource,
    dataset_id: str | None = None,
    license: str | None = None,  # noqa: A002 - the name in the API
) -> Dataset:
    """Create a dataset that the ingest worker loads or downloads. Raises ``QuotaExceeded`` for a full project."""
    quotas.require_storage(session, project_id, settings)
    if isinstance(source, BuiltinSource):
        default_name: str = source.name
    else:
        default_name = name_from_filename(unquote(urlsplit(source.url).path))
    check_name(name or default_name, is_keyword_reserved=False)
    document = source.model_dump(mode="json")
    return datasets.create(
        session, project_id, name=name or default_name, source=document, dataset_id=dataset_id, license=license
    )


def store_upload(store: ArtifactStore, form: Form) -> tuple[str, StoredFile]:
    """Store the uploaded file for the ingest worker; return the id of the dataset to create, and the file."""
    dataset_id = new_id("ds")
    return dataset_id, store.put(f"uploads/{dataset_id}/file", form.file.path)


def create_uploaded(
    session: Session, project_id: str, *, dataset_id: str, fields: UploadedDataset, form: Form, stored: StoredFile
) -> Dataset:
    """Create a dataset whose file is stored. After a rollback, garbage collection deletes the file."""
    name = fields.name or name_from_filename(form.file.filename)
    check_name(name, is_keyword_reserved=False)
    source: dict[str, Any] = {
        "type": "file",
        "filename": form.file.filename[:_NAME_CHARACTERS],
        "size_bytes": stored.size_bytes,
        "sha256": stored.sha256,
        **fields.model_dump(mode="json", include=set(LayoutOptions.model_fields)),
    }
    return datasets.create(
        session,
        project_id,
        name=name,
        source=source,
        upload_key=stored.key,
        size_bytes=stored.size_bytes,
        dataset_id=dataset_id,
        license=fields.license,
    )


def name_from_filename(filename: str) -> str:
    """Return a default name: the file name without folders and suffixes."""
    basename = filename.replace("\\", "/").rsplit("/", 1)[-1].strip()
    stem = basename.partition(".")[0] if not basename.startswith(".") else basename
    return stem[:_NAME_CHARACTERS] or "unnamed"


def dataset_out(dataset: Dataset) -> DatasetOut:
    """Convert a dataset row to its response document."""
    return DatasetOut.model_validate(
        {
            "id": dataset.id,
            "name": dataset.name,
            "status": dataset.status,
            "source": datasets.redact_source(dataset.source),
            "license": dataset.license,
            "splits": dataset.splits,
            "num_classes": dataset.num_classes,
            "classes": dataset.classes,
            "channels": dataset.channels,
            "image_size": dataset.image_size,
            "value_range": dataset.value_range,
            "cropped_fraction": dataset.cropped_fraction,
            "progress": (dataset.progress or _NOT_STARTED) if dataset.status == "processing" else None,
            "fingerprint": dataset.fingerprint,
            "size_bytes": dataset.size_bytes,
            "rejected": dataset.rejected,
            "warnings": dataset.warnings,
            "error": dataset.error,
            "created_at": dataset.created_at,
            "finished_at": dataset.finished_at,
        }
    )
