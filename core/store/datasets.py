"""Datasets: created by an API request, processed by the ingest worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.ids import new_id
from core.job_warnings import JobWarning, merge_warnings
from core.redaction import hide_query
from core.store import ingest_leases
from core.store.artifact_store import StoredFile
from core.store.db import is_postgresql, utc_now
from core.store.ingest_leases import IngestLeaseToken
from core.store.pagination import Page, not_found, paginate_newest_first, require_id
from core.store.quotas import add_stored
from core.store.references import require_unreferenced
from core.store.search import word_conditions
from core.store.tables import Dataset


def create(
    session: Session,
    project_id: str,
    *,
    name: str,
    source: Mapping[str, Any],
    upload_key: str | None = None,
    upload_id: str | None = None,
    size_bytes: int | None = None,
    dataset_id: str | None = None,
    license: str | None = None,  # noqa: A002 - the name in the API
) -> Dataset:
    """Add a dataset to ingest.

    ``upload_key`` and ``size_bytes`` are those of the uploaded file, if there is one. ``upload_id``: the resumable
    upload to read, which this transaction has locked (:func:`core.store.uploads.get_for_use`).
    """
    dataset = Dataset(
        id=dataset_id or new_id("ds"),
        project_id=project_id,
        name=name,
        source=dict(source),
        license=license,
        status="processing",
        upload_key=upload_key,
        upload_id=upload_id,
        size_bytes=size_bytes,
        created_at=utc_now(session),
    )
    session.add(dataset)
    session.flush()
    add_stored(session, project_id, size_bytes or 0)
    return dataset


def get(session: Session, project_id: str, dataset_id: str) -> Dataset:
    """Load a dataset of the project. Raises ``NotFound``."""
    return _find(session, project_id, dataset_id, lock=False)


def list_datasets(
    session: Session, project_id: str, *, search: str = "", limit: int = 20, after: str | None = None
) -> Page[Dataset]:
    """List the project's datasets, newest first; the name or id of each contains every word of ``search``."""
    words = word_conditions(search, (Dataset.id, Dataset.name), on_postgresql=is_postgresql(session))
    statement = select(Dataset).where(Dataset.project_id == project_id, *words)
    return paginate_newest_first(session, statement, Dataset.id, limit=limit, after=after, prefix="ds")


def delete(session: Session, project_id: str, dataset_id: str) -> list[str]:
    """Delete a dataset, even while it is being ingested.

    Returns the keys of its files: delete them after the commit, or leave them to garbage collection.
    Raises ``NotFound``, and ``InUse`` if an unfinished job reads it.
    """
    dataset = _find(session, project_id, dataset_id, lock=True)
    require_unreferenced(session, dataset.id, "dataset")
    keys = [file["key"] for file in dataset.files]
    session.delete(dataset)
    session.flush()
    add_stored(session, project_id, -(dataset.size_bytes or 0))
    return keys if dataset.upload_key is None else [*keys, dataset.upload_key]


# --- the ingest worker ------------------------------------------------------------------------------


def claim(session: Session, *, worker_id: str, lease_seconds: float) -> Dataset | None:
    """Claim the oldest waiting dataset; None if there is none. Continue with ``IngestLeaseToken.from_row``."""
    return ingest_leases.claim(session, Dataset, worker_id=worker_id, lease_seconds=lease_seconds)


def count_claimable(session: Session) -> int:
    """Count the datasets that can be claimed now."""
    return ingest_leases.count_claimable(session, Dataset)


def renew_lease(session: Session, lease: IngestLeaseToken, lease_seconds: float) -> None:
    """Renew the lease. Raises ``LeaseLost``, also if the dataset was deleted meanwhile."""
    ingest_leases.renew_lease(session, Dataset, lease, lease_seconds)


def release(session: Session, lease: IngestLeaseToken) -> Dataset:
    """Release the dataset for another worker. Raises ``LeaseLost``."""
    ingest_leases.change(session, Dataset, lease, progress=None)
    return ingest_leases.release(session, Dataset, lease)


def record_progress(
    session: Session, lease: IngestLeaseToken, *, processed: int, total: int | None, images_per_second: float | None
) -> None:
    """Record the files read so far. Raises ``LeaseLost``, also if the dataset was deleted meanwhile."""
    progress = {"processed": processed, "total": total, "images_per_second": images_per_second}
    ingest_leases.change(session, Dataset, lease, progress=progress)


def record_commit(session: Session, lease: IngestLeaseToken, commit: str) -> None:
    """Add the commit to the source of a dataset from the hub. Raises ``LeaseLost``."""
    row = session.get_one(Dataset, lease.object_id)
    ingest_leases.change(session, Dataset, lease, source={**row.source, "commit": commit})


def mark_ready(
    session: Session,
    lease: IngestLeaseToken,
    *,
    files: Sequence[StoredFile],
    splits: Mapping[str, Any],
    num_classes: int | None,
    classes: Sequence[str] | None,
    channels: int,
    image_size: int,
    value_range: Mapping[str, int] | None = None,
    cropped_fraction: float | None = None,
    fingerprint: str,
    size_bytes: int,
    rejected: Sequence[Mapping[str, str]] = (),
    warnings: Sequence[JobWarning] = (),
) -> Dataset:
    """Mark the dataset as ready: its files are published. Raises ``LeaseLost``."""
    return ingest_leases.mark_ready(
        session,
        Dataset,
        lease,
        files=[file.to_json() for file in files],
        splits=dict(splits),
        num_classes=num_classes,
        classes=None if classes is None else list(classes),
        channels=channels,
        image_size=image_size,
        value_range=None if value_range is None else dict(value_range),
        cropped_fraction=cropped_fraction,
        progress=None,
        fingerprint=fingerprint,
        size_bytes=size_bytes,
        rejected=[dict(file) for file in rejected],
        warnings=merge_warnings((), warnings),
        upload_key=None,
        **_redacted_source(session, lease),
    )


def fail(
    session: Session, lease: IngestLeaseToken, error: Mapping[str, Any], *, rejected: Sequence[Mapping[str, str]] = ()
) -> Dataset:
    """Mark the dataset as failed. Raises ``LeaseLost``."""
    values = {"rejected": [dict(file) for file in rejected], "upload_key": None, "size_bytes": None}
    values |= {"progress": None}
    values |= _redacted_source(session, lease)
    return ingest_leases.fail(session, Dataset, lease, dict(error), **values)


def redact_source(source: Mapping[str, Any]) -> dict[str, Any]:
    """Hide the query of a source URL, which contains the signature of a signed link."""
    if source.get("type") != "url":
        return dict(source)
    return {**source, "url": hide_query(source["url"])}


def _redacted_source(session: Session, lease: IngestLeaseToken) -> dict[str, Any]:
    """Return the column ``source`` without its secret, which is stored (and backed up) only until the download ends."""
    row = session.get(Dataset, lease.object_id)
    return {} if row is None else {"source": redact_source(row.source)}


def _find(session: Session, project_id: str, dataset_id: str, *, lock: bool) -> Dataset:
    require_id(dataset_id, "ds", "dataset")
    statement = select(Dataset).where(Dataset.id == dataset_id, Dataset.project_id == project_id)
    dataset = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if dataset is None:
        raise not_found("dataset", dataset_id)
    return dataset
