"""Logic of the dataset endpoints, without HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

from api.datasets.schemas import (
    BuiltinSource,
    DatasetCreate,
    DatasetOut,
    HuggingFaceSource,
    S3Source,
    UploadedDataset,
    UploadSource,
    UrlSource,
)
from api.multipart import SNIFF_BYTES, Form
from api.references import check_name
from api.sniffing import require_archive
from api.uploads.service import find_complete, lock_complete
from core.fetch.targets import parse_target
from core.fetch.url_pattern import expand_url
from core.ids import new_id
from core.ingest_errors import UrlNotAllowed
from core.settings import Settings
from core.spec.dataset_layout import LayoutOptions
from core.store import datasets, quotas
from core.store.artifact_store import ArtifactStore, StoredFile
from core.store.db import Database, Session
from core.store.tables import Dataset

_UPLOAD_POINTER = "/source/upload"
_NAME_CHARACTERS = 200
Source = BuiltinSource | UrlSource | UploadSource | HuggingFaceSource | S3Source

_NOT_STARTED = {"processed": 0, "total": None, "images_per_second": None}


def check_source(request: DatasetCreate, settings: Settings) -> Source:
    """Return the source, without any connection or DNS query.

    Raises :class:`UrlNotAllowed` for a URL that the settings forbid.
    """
    source = request.source
    if isinstance(source, UrlSource):
        try:
            for url in expand_url(source.url):
                parse_target(url, settings.network_policy)
        except UrlNotAllowed as error:
            raise UrlNotAllowed.for_field("/source/url", error.detail) from None
    if isinstance(source, S3Source) and not _is_allowed_bucket(source.url, settings.s3_sources):
        detail = "this bucket is not one that the operator allows in POTSTILL_S3_SOURCES; use a presigned https URL"
        raise UrlNotAllowed.for_field("/source/url", detail)
    return source


def _is_allowed_bucket(url: str, allowed: Iterable[str]) -> bool:
    """Whether the URL is below one of the allowed buckets or prefixes; whole names of folders count."""
    location = url.removeprefix("s3://").rstrip("/") + "/"
    if {".", ".."} & set(location.split("/")):
        return False
    return any(location.startswith(entry.strip("/") + "/") for entry in allowed)


def create_from_source(
    session: Session,
    project_id: str,
    settings: Settings,
    *,
    name: str | None,
    source: Source,
    license: str | None = None,  # noqa: A002 - the name in the API
) -> Dataset:
    """Create a dataset that the ingest worker loads, downloads or reads from an upload.

    Raises ``QuotaExceeded`` for a full project, and ``InvalidRequest`` for an upload that is unknown or incomplete.
    """
    quotas.require_storage(session, project_id, settings)
    upload_id, document = None, source.model_dump(mode="json")
    match source:
        case BuiltinSource():
            default_name: str = source.name
        case UrlSource() | S3Source():
            default_name = name_from_filename(unquote(urlsplit(source.url).path).rstrip("/"))
        case HuggingFaceSource():
            default_name = source.repo.rsplit("/", 1)[-1]
        case UploadSource():
            upload = lock_complete(session, project_id, source.upload, _UPLOAD_POINTER)
            upload_id, default_name = upload.id, name_from_filename(upload.filename)
            document["filename"] = upload.filename[:_NAME_CHARACTERS]
    check_name(name or default_name, is_keyword_reserved=False)
    return datasets.create(
        session,
        project_id,
        name=name or default_name,
        source=document,
        upload_id=upload_id,
        license=license,
    )


def check_upload(database: Database, store: ArtifactStore, project_id: str, source: UploadSource) -> None:
    """Check that an upload is complete and starts as a dataset does.

    Raises :class:`InvalidRequest`, and :class:`UnsupportedMedia` for a wrong file type.
    """
    with database.read() as session:
        upload = find_complete(session, project_id, source.upload, _UPLOAD_POINTER)
    require_archive(upload.read_head(store, SNIFF_BYTES))


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
