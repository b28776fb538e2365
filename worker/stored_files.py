"""Fetch folders of stored files to this machine, and publish folders to the store."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from core.errors import StorageFailed
from core.store.artifact_store import ArtifactStore, StoredFile
from core.system.disk import atomic_path


def fetch_folder(store: ArtifactStore, files: Sequence[StoredFile], folder: Path) -> Path:
    """Fetch stored files into ``folder`` and verify their hashes. The folder is complete or absent.

    Raises :class:`StorageFailed` if a file is lost or damaged.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for file in files:
            store.fetch(file.key, temporary / file.name, sha256=file.sha256)
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier fetch
    return folder


def link_folder(store: ArtifactStore, files: Sequence[StoredFile], folder: Path) -> Path | None:
    """Create a folder of links to files in a local store; return None if the store is remote."""
    local_paths = {file.name: store.local_path(file.key) for file in files}
    if None in local_paths.values():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in local_paths.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(path)  # type: ignore[arg-type]  # not None, see above
    return folder


def publish_folder(store: ArtifactStore, folder: Path, prefix: str) -> list[StoredFile]:
    """Publish every file of a folder under a key prefix."""
    return [publish_file(store, f"{prefix}/{path.name}", path) for path in sorted(folder.iterdir()) if path.is_file()]


def publish_file(store: ArtifactStore, key: str, path: Path) -> StoredFile:
    """Publish one file and read it back. Raises :class:`StorageFailed` if the stored file differs."""
    written = store.put(key, path)
    if store.measure(key) != written:
        raise StorageFailed(f"The stored file {key} differs from the written file; the artifact store is damaged.")
    return written
