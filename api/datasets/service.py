"""What the dataset endpoints do, without HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from api.datasets.schemas import BuiltinSource, DatasetCreate, DatasetOut, UploadedDataset, UrlSource
from api.multipart import Form
from core.errors import FieldError, NotAvailable
from core.fetch.targets import NetworkPolicy, parse_target
from core.ids import new_id
from core.ingest_errors import UrlNotAllowed
from core.settings import Settings
from core.store import datasets, quotas
from core.store.artifact_store import ArtifactStore, StoredFile
from core.store.db import Session
from core.store.tables import Dataset

_NAME_CHARACTERS = 200


def source_of(request: DatasetCreate, reach: NetworkPolicy) -> BuiltinSource | UrlSource:
    """The source, if this version reads it. Nothing is connected to, no name is looked up.

    Raises :class:`NotAvailable`, and :class:`UrlNotAllowed` for a URL that will never be fetched.
    """
    if isinstance(request.source, BuiltinSource):
        return request.source
    if isinstance(request.source, UrlSource):
        try:
            parse_target(request.source.url, reach)
        except UrlNotAllowed as error:
            at = "/source/url"
            raise UrlNotAllowed(f"{at}: {error.detail}.", errors=[FieldError(at, error.detail)]) from None
        return request.source
    detail = (
        f"sources of the type {request.source.type} are not available in this version; send the archive "
        "itself as multipart/form-data with the part `file`"
    )
    raise NotAvailable(f"/source/type: {detail}.", errors=[FieldError("/source/type", detail)])


def create_from(
    session: Session,
    project_id: str,
    settings: Settings,
    *,
    name: str | None,
    source: BuiltinSource | UrlSource,
    dataset_id: str | None = None,
) -> Dataset:
    """Add a dataset that the ingest worker gets by itself. Raises ``QuotaExceeded`` where the project is full."""
    quotas.require_room(session, project_id, settings)
    own = source.name if isinstance(source, BuiltinSource) else title_of(unquote(urlsplit(source.url).path))
    document = source.model_dump(mode="json")
    return datasets.create(session, project_id, name=name or own, source=document, dataset_id=dataset_id)


def store_upload(store: ArtifactStore, form: Form) -> tuple[str, StoredFile]:
    """Keep the sent file for the ingest worker; the id of the dataset that it will be, and the file."""
    dataset_id = new_id("ds")
    return dataset_id, store.put(f"uploads/{dataset_id}/file", form.file.path)


def create_uploaded(
    session: Session, project_id: str, *, dataset_id: str, fields: UploadedDataset, form: Form, stored: StoredFile
) -> Dataset:
    """Add a dataset whose file is stored. If this is rolled back, the collector finds the file."""
    source: dict[str, Any] = {
        "type": "file",
        "filename": form.file.filename[:_NAME_CHARACTERS],
        "size_bytes": stored.size_bytes,
        "sha256": stored.sha256,
        "labels": fields.labels,
    }
    return datasets.create(
        session,
        project_id,
        name=fields.name or title_of(form.file.filename),
        source=source,
        upload_key=stored.key,
        size_bytes=stored.size_bytes,
        dataset_id=dataset_id,
    )


def title_of(filename: str) -> str:
    """What to call something whose file has this name: without folders and endings."""
    last = filename.replace("\\", "/").rsplit("/", 1)[-1].strip()
    stem = last.partition(".")[0] if not last.startswith(".") else last
    return stem[:_NAME_CHARACTERS] or "unnamed"


def dataset_out(dataset: Dataset) -> DatasetOut:
    """The dataset as everybody sees it."""
    return DatasetOut.model_validate(
        {
            "id": dataset.id,
            "name": dataset.name,
            "status": dataset.status,
            "source": datasets.shown(dataset.source),
            "splits": dataset.splits,
            "num_classes": dataset.num_classes,
            "classes": dataset.classes,
            "channels": dataset.channels,
            "image_size": dataset.image_size,
            "fingerprint": dataset.fingerprint,
            "size_bytes": dataset.size_bytes,
            "rejected": dataset.rejected,
            "error": dataset.error,
            "created_at": dataset.created_at,
            "finished_at": dataset.finished_at,
        }
    )
