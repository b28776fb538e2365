"""Garbage collection of stored files without a reference, and the list of all referenced files.

A worker that loses its lease, or dies between two steps, leaves such files. Keys start with their owner:
``jobs/<job>/a<attempt>/…``, ``datasets/<dataset>/…``, ``models/<model>/…``, ``teachers/<project>/<fingerprint>/…``,
``uploads/…``. A file stays while a row references it, while the attempt that wrote it may still run, and while it is
younger than a minimum age. The age does not matter for files of a finished job: no attempt can reference them any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import StorageFailed
from core.ids import is_id
from core.store.artifact_store import ArtifactStore, ListedFile, StoredFile
from core.store.db import Database
from core.store.tables import TERMINAL_STATUSES, Artifact, Checkpoint, Dataset, Job, Model, Teacher, status_is
from core.store.upload_tables import Upload, UploadPart

_BATCH_SIZE = 500

log = structlog.get_logger(__name__)


def collect(database: Database, store: ArtifactStore, *, min_age_seconds: float = 3600) -> list[str]:
    """Delete the garbage that is older than ``min_age_seconds``, and all of finished jobs; return its keys.

    The minimum age protects files that are published before the row with their reference is written.
    """
    store.remove_partials(min_age_seconds)
    newest = datetime.now(UTC) - timedelta(seconds=min_age_seconds)
    garbage: list[str] = []
    for batch in _batches(store.list_prefix()):
        with database.read() as session:
            finished = _finished_jobs(session, batch)
            candidates = [file.key for file in batch if file.modified_at < newest or _owner(file.key) in finished]
            orphans = find_orphans(session, candidates)
        garbage += [key for key in orphans if _try_delete(store, key)]
    return garbage


def find_orphans(session: Session, keys: Iterable[str]) -> list[str]:
    """Return the keys that no row references and that no running attempt may still reference."""
    orphans: list[str] = []
    for (kind, owner_id), group in groupby(keys, key=_owner):
        candidates = list(group)
        if kind not in _PROTECTED:  # not written by this service
            continue
        protected = _PROTECTED[kind](session, owner_id, candidates)
        orphans += [
            key for key in candidates if key not in protected.keys and protected.live_parts.isdisjoint(key.split("/"))
        ]
    return orphans


def referenced_files(session: Session) -> dict[str, StoredFile | None]:
    """Return all files that rows reference, by key; None for an upload, whose size and hash are unknown."""
    files: dict[str, StoredFile | None] = {}
    for upload_key in (Dataset.upload_key, Model.upload_key):
        files |= dict.fromkeys(key for key in session.scalars(select(upload_key).where(upload_key.is_not(None))) if key)
    for column in (Dataset.files, Model.files, Teacher.files, Checkpoint.files):
        for documents in session.scalars(select(column)):
            files |= {document["key"]: StoredFile.from_json(document) for document in documents}
    for table in (Artifact, UploadPart):
        for row in session.execute(select(table.key, table.size_bytes, table.sha256)):
            files[row.key] = StoredFile(row.key, row.size_bytes, row.sha256)
    return files


# --- internal ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Protected:
    """Files of one owner that are not garbage."""

    keys: set[str]  # referenced by rows
    live_parts: set[str]  # parts of keys below which a running attempt or an upload may still write


def _owner(key: str) -> tuple[str, str]:
    """Return the kind and the owner id of a key."""
    kind, _, rest = key.partition("/")
    return (kind, "" if kind == "uploads" else rest.partition("/")[0])


def _protect_job(session: Session, job_id: str, _keys: list[str]) -> _Protected:
    keys = set(session.scalars(select(Artifact.key).where(Artifact.job_id == job_id)))
    keys |= _keys_of(session.scalars(select(Checkpoint.files).where(Checkpoint.job_id == job_id)))
    keys |= _keys_of(session.scalars(select(Model.files).where(Model.job_id == job_id)))
    running = session.scalars(select(Job.attempt).where(Job.id == job_id, Job.status == "running"))
    return _Protected(keys, {f"a{attempt}" for attempt in running})


def _protect_dataset(session: Session, dataset_id: str, _keys: list[str]) -> _Protected:
    return _protect_ingest(session.get(Dataset, dataset_id))


def _protect_model(session: Session, model_id: str, _keys: list[str]) -> _Protected:
    return _protect_ingest(session.get(Model, model_id))


def _protect_ingest(row: Dataset | Model | None) -> _Protected:
    if row is None:
        return _Protected(set(), set())
    keys = _keys_of([row.files]) | ({row.upload_key} if row.upload_key else set())
    return _Protected(keys, {row.id} if row.status == "processing" else set())


def _protect_teachers(session: Session, project_id: str, _keys: list[str]) -> _Protected:
    keys = _keys_of(session.scalars(select(Teacher.files).where(Teacher.project_id == project_id)))
    running = session.execute(select(Job.id, Job.attempt).where(Job.project_id == project_id, status_is("running")))
    return _Protected(keys, {f"{job_id}-a{attempt}" for job_id, attempt in running})


def _protect_uploads(session: Session, _owner_id: str, keys: list[str]) -> _Protected:
    referenced: set[str] = set()
    for column in (Dataset.upload_key, Model.upload_key):
        referenced |= {key for key in session.scalars(select(column).where(column.in_(keys))) if key is not None}
    upload_ids = {key.split("/")[1] for key in keys if is_id(key.split("/")[1], "up")}
    return _Protected(referenced, set(session.scalars(select(Upload.id).where(Upload.id.in_(upload_ids)))))


_PROTECTED: dict[str, Callable[[Session, str, list[str]], _Protected]] = {
    "jobs": _protect_job,
    "datasets": _protect_dataset,
    "models": _protect_model,
    "teachers": _protect_teachers,
    "uploads": _protect_uploads,
}


def _keys_of(rows: Iterable[list[Any]]) -> set[str]:
    return {file["key"] for files in rows for file in files}


def _batches(files: Iterable[ListedFile]) -> Iterator[list[ListedFile]]:
    iterator = iter(files)
    while batch := list(islice(iterator, _BATCH_SIZE)):
        yield batch


def _finished_jobs(session: Session, files: Iterable[ListedFile]) -> set[tuple[str, str]]:
    """Return those owners of the files that are finished jobs."""
    owners = {_owner(file.key) for file in files}
    ids = [owner_id for kind, owner_id in owners if kind == "jobs"]
    finished = session.scalars(select(Job.id).where(Job.id.in_(ids), Job.status.in_(TERMINAL_STATUSES)))
    return {("jobs", job_id) for job_id in finished}


def _try_delete(store: ArtifactStore, key: str) -> bool:
    """Delete a file. A failure is logged and does not stop the collection; the next round tries again."""
    try:
        store.delete(key)
    except StorageFailed as error:
        log.warning("garbage.delete_failed", key=key, error=error.detail)
        return False
    return True
