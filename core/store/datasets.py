"""Datasets: created by a caller, made ready by the ingest worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.ids import new_id
from core.store import ingest_leases
from core.store.artifact_store import StoredFile
from core.store.db import utc_now
from core.store.ingest_leases import IngestLeaseToken
from core.store.pagination import Page, missing, newest_first, require_id
from core.store.quotas import add_stored
from core.store.references import require_unreferenced
from core.store.tables import Dataset


def create(
    session: Session,
    project_id: str,
    *,
    name: str,
    source: Mapping[str, Any],
    upload_key: str | None = None,
    size_bytes: int | None = None,
    dataset_id: str | None = None,
) -> Dataset:
    """Add a dataset that waits to be ingested; ``upload_key`` says where the sent file is stored, which has a size."""
    dataset = Dataset(
        id=dataset_id or new_id("ds"),
        project_id=project_id,
        name=name,
        source=dict(source),
        status="processing",
        upload_key=upload_key,
        size_bytes=size_bytes,
        created_at=utc_now(session),
    )
    session.add(dataset)
    session.flush()
    add_stored(session, project_id, size_bytes or 0)
    return dataset


def get(session: Session, project_id: str, dataset_id: str) -> Dataset:
    """One dataset of the project. Raises ``NotFound``."""
    return _find(session, project_id, dataset_id, lock=False)


def list_datasets(session: Session, project_id: str, *, limit: int = 20, after: str | None = None) -> Page[Dataset]:
    """The project's datasets, newest first."""
    statement = select(Dataset).where(Dataset.project_id == project_id)
    return newest_first(session, statement, Dataset.id, limit=limit, after=after, prefix="ds")


def delete(session: Session, project_id: str, dataset_id: str) -> list[str]:
    """Delete a dataset, also one that is being ingested.

    Returns the keys of its files: delete them after the commit, or leave them to the collector.
    Raises ``NotFound``, and ``InUse`` where an unfinished job reads it.
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
    """Take the oldest dataset that waits; None if there is none. Continue with ``Holding.of(dataset)``."""
    return ingest_leases.claim(session, Dataset, worker_id=worker_id, lease_seconds=lease_seconds)


def waiting(session: Session) -> int:
    """How many datasets could be claimed now."""
    return ingest_leases.waiting(session, Dataset)


def renew_lease(session: Session, holding: IngestLeaseToken, lease_seconds: float) -> None:
    """Renew the lease. Raises ``LeaseLost``, also where the dataset was deleted meanwhile."""
    ingest_leases.renew_lease(session, Dataset, holding, lease_seconds)


def release(session: Session, holding: IngestLeaseToken) -> Dataset:
    """Leave it for another worker. Raises ``LeaseLost``."""
    return ingest_leases.release(session, Dataset, holding)


def ready(
    session: Session,
    holding: IngestLeaseToken,
    *,
    files: Sequence[StoredFile],
    splits: Mapping[str, Any],
    num_classes: int | None,
    classes: Sequence[str] | None,
    channels: int,
    image_size: int,
    fingerprint: str,
    size_bytes: int,
    rejected: Sequence[Mapping[str, str]] = (),
) -> Dataset:
    """The dataset is stored and can be learnt from. Raises ``LeaseLost``."""
    return ingest_leases.ready(
        session,
        Dataset,
        holding,
        files=[file.as_json() for file in files],
        splits=dict(splits),
        num_classes=num_classes,
        classes=None if classes is None else list(classes),
        channels=channels,
        image_size=image_size,
        fingerprint=fingerprint,
        size_bytes=size_bytes,
        rejected=[dict(one) for one in rejected],
        upload_key=None,
        **_source_without_secret(session, holding),
    )


def fail(
    session: Session, holding: IngestLeaseToken, error: Mapping[str, Any], *, rejected: Sequence[Mapping[str, str]] = ()
) -> Dataset:
    """The dataset cannot be used. Raises ``LeaseLost``."""
    facts = {"rejected": [dict(one) for one in rejected], "upload_key": None, "size_bytes": None}
    return ingest_leases.fail(
        session, Dataset, holding, dict(error), **facts, **_source_without_secret(session, holding)
    )


def shown(source: Mapping[str, Any]) -> dict[str, Any]:
    """A source as every key of the project may see it: what opens a signed link stands in its query."""
    if source.get("type") != "url":
        return dict(source)
    address, mark, _ = source["url"].partition("?")
    return {**source, "url": f"{address}?[hidden]" if mark else address}


def _source_without_secret(session: Session, holding: IngestLeaseToken) -> dict[str, Any]:
    """What opens a link is kept, and in backups, for as long as something is still to be fetched."""
    row = session.get(Dataset, holding.object_id)
    return {} if row is None else {"source": shown(row.source)}


def _find(session: Session, project_id: str, dataset_id: str, *, lock: bool) -> Dataset:
    require_id(dataset_id, "ds", "dataset")
    statement = select(Dataset).where(Dataset.id == dataset_id, Dataset.project_id == project_id)
    found = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if found is None:
        raise missing("dataset", dataset_id)
    return found
