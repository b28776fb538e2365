"""Folders of stored files: brought to this machine whole and checked, and published file by file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import StorageFailed
from core.store.artifact_store import ArtifactStore, StoredFile


def stored_files(documents: Iterable[Mapping[str, Any]]) -> list[StoredFile]:
    """The files that a row speaks of."""
    return [StoredFile.from_json(dict(document)) for document in documents]


def fetch_folder(store: ArtifactStore, files: Sequence[StoredFile], folder: Path) -> Path:
    """Copy stored files into ``folder``, each checked against its hash; the folder is whole or not there.

    Raises :class:`StorageFailed` where a file is lost or damaged.
    """
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        for file in files:
            store.fetch(file.key, beside / file.name, sha256=file.sha256)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def link_folder(store: ArtifactStore, files: Sequence[StoredFile], folder: Path) -> Path | None:
    """A folder of links to files that are on this machine's disk already; None where they are not."""
    here = {file.name: store.local_path(file.key) for file in files}
    if None in here.values():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in here.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(path)  # type: ignore[arg-type]  # None is ruled out above
    return folder


def publish_folder(store: ArtifactStore, folder: Path, prefix: str) -> list[StoredFile]:
    """Publish every file of a folder below a prefix of keys."""
    return [publish_file(store, f"{prefix}/{path.name}", path) for path in sorted(folder.iterdir()) if path.is_file()]


def publish_file(store: ArtifactStore, key: str, path: Path) -> StoredFile:
    """Publish one file and read it back. Raises :class:`StorageFailed` where it is not what was written."""
    written = store.put(key, path)
    if store.measure(key) != written:
        raise StorageFailed(f"The stored file {key} is not what was written; the artefact store is damaged.")
    return written
