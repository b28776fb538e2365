"""Garbage: stored files that no row names, left by a worker that lost its lease or died between two steps.

Keys begin with what they belong to: ``jobs/<job>/a<attempt>/…``, ``datasets/<dataset>/…``,
``models/<model>/…``, ``teachers/<project>/<recipe>/…``, ``uploads/…``. A file is kept while a row names
it, while the attempt that wrote it may still run, and while it is young.
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
from core.store.artifact_store import ArtifactStore, StoredFile
from core.store.db import Database
from core.store.tables import Artifact, Checkpoint, Dataset, Job, Model, Teacher, status_is

_BATCH = 500

log = structlog.get_logger(__name__)


def collect(database: Database, store: ArtifactStore, *, min_age_seconds: float = 3600) -> list[str]:
    """Delete the garbage that is older than ``min_age_seconds``; returns its keys.

    The age covers files that are published before the row that names them is written.
    """
    store.remove_partials(min_age_seconds)
    before = datetime.now(UTC) - timedelta(seconds=min_age_seconds)
    old = (listed.key for listed in store.list_prefix() if listed.modified_at < before)
    garbage: list[str] = []
    for batch in _batches(old):
        with database.read() as session:
            found = orphans(session, batch)
        garbage += [key for key in found if _deleted(store, key)]
    return garbage


def _deleted(store: ArtifactStore, key: str) -> bool:
    """Delete a file. One that cannot be deleted keeps none of the others; the next round tries again."""
    try:
        store.delete(key)
    except StorageFailed as error:
        log.warning("garbage.left", key=key, error=error.detail)
        return False
    return True


def orphans(session: Session, keys: Iterable[str]) -> list[str]:
    """Those of the keys that no row names and no live attempt may still be about to name."""
    found: list[str] = []
    for (kind, owner), group in groupby(keys, key=_owner):
        candidates = list(group)
        if kind not in _KEPT:  # not ours to judge
            continue
        kept = _KEPT[kind](session, owner, candidates)
        found += [key for key in candidates if key not in kept.keys and kept.live.isdisjoint(key.split("/"))]
    return found


@dataclass(frozen=True, slots=True)
class _Kept:
    keys: set[str]  # that rows name
    live: set[str]  # parts of keys below which somebody may still be writing


def _owner(key: str) -> tuple[str, str]:
    kind, _, rest = key.partition("/")
    return (kind, "" if kind == "uploads" else rest.partition("/")[0])


def _of_job(session: Session, job_id: str, _keys: list[str]) -> _Kept:
    named = set(session.scalars(select(Artifact.key).where(Artifact.job_id == job_id)))
    named |= _keys_of(session.scalars(select(Checkpoint.files).where(Checkpoint.job_id == job_id)))
    named |= _keys_of(session.scalars(select(Model.files).where(Model.job_id == job_id)))
    running = session.scalars(select(Job.attempt).where(Job.id == job_id, Job.status == "running"))
    return _Kept(named, {f"a{attempt}" for attempt in running})


def _of_dataset(session: Session, dataset_id: str, _keys: list[str]) -> _Kept:
    return _of_intake(session.get(Dataset, dataset_id))


def _of_model(session: Session, model_id: str, _keys: list[str]) -> _Kept:
    return _of_intake(session.get(Model, model_id))


def _of_intake(row: Dataset | Model | None) -> _Kept:
    if row is None:
        return _Kept(set(), set())
    named = _keys_of([row.files]) | ({row.upload_key} if row.upload_key else set())
    return _Kept(named, {row.id} if row.status == "processing" else set())


def _of_teachers(session: Session, project_id: str, _keys: list[str]) -> _Kept:
    named = _keys_of(session.scalars(select(Teacher.files).where(Teacher.project_id == project_id)))
    running = session.execute(select(Job.id, Job.attempt).where(Job.project_id == project_id, status_is("running")))
    return _Kept(named, {f"{job_id}-a{attempt}" for job_id, attempt in running})


def _of_uploads(session: Session, _owner: str, keys: list[str]) -> _Kept:
    named: set[str] = set()
    for column in (Dataset.upload_key, Model.upload_key):
        named |= {key for key in session.scalars(select(column).where(column.in_(keys))) if key is not None}
    return _Kept(named, set())


_KEPT: dict[str, Callable[[Session, str, list[str]], _Kept]] = {
    "jobs": _of_job,
    "datasets": _of_dataset,
    "models": _of_model,
    "teachers": _of_teachers,
    "uploads": _of_uploads,
}


def _keys_of(rows: Iterable[list[Any]]) -> set[str]:
    return {file["key"] for files in rows for file in files}


def _batches(keys: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(keys, _BATCH)):
        yield batch


def referenced_files(session: Session) -> dict[str, StoredFile | None]:
    """All files that rows name, by key; None of an upload, of which nothing is known but its key."""
    found: dict[str, StoredFile | None] = {}
    for uploads in (Dataset.upload_key, Model.upload_key):
        found |= dict.fromkeys(key for key in session.scalars(select(uploads).where(uploads.is_not(None))) if key)
    for files in (Dataset.files, Model.files, Teacher.files, Checkpoint.files):
        for documents in session.scalars(select(files)):
            found |= {document["key"]: StoredFile.from_json(document) for document in documents}
    for row in session.execute(select(Artifact.key, Artifact.size_bytes, Artifact.sha256)):
        found[row.key] = StoredFile(row.key, row.size_bytes, row.sha256)
    return found
