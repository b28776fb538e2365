"""Artifact store: files with a sha256, published atomically.

Keys are relative paths such as ``jobs/job_…/a1/model.safetensors``. A worker publishes under a key with its attempt
and then refers to the file in a guarded UPDATE. So a stale worker leaves only garbage, which is collected later.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, Self

from core.errors import StorageFailed, StoredFileDamaged
from core.system.disk import disk_error_reason, fsync
from core.system.fault_injection import fault_point

_CHUNK_BYTES = 1024 * 1024
_KEY_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # no part starts with a dot, which excludes `.` and `..`
_MAX_KEY_LENGTH = 512
_PUBLISH_TIMEOUT_SECONDS = 10.0  # while concurrent deletes remove the target folder
_MAX_JITTER_SECONDS = 0.002
_PARTIAL_DIR = ".partial"  # no key starts with a dot, so files in this folder are never listed or read


@dataclass(frozen=True, slots=True)
class StoredFile:
    """File in the store: key, size and hash."""

    key: str
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rsplit("/", 1)[-1]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that database rows contain."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read the JSON object of a database row."""
        return cls(document["key"], document["size_bytes"], document["sha256"])


def parse_stored_files(documents: Iterable[Mapping[str, Any]]) -> list[StoredFile]:
    """Parse the ``files`` of a database row."""
    return [StoredFile.from_json(document) for document in documents]


@dataclass(frozen=True, slots=True)
class ListedFile:
    """File in a listing."""

    key: str
    size_bytes: int
    modified_at: datetime


class ArtifactStore(Protocol):
    """Storage of files. Raises ``StorageFailed``, and ``ValueError`` for a key that could leave the store.

    ``StoredFileDamaged`` means only that a file is missing or has a wrong hash. A store that is full,
    read-only or unreachable has lost nothing.
    """

    def __hash__(self) -> int:
        """Return a hash of the identity: caches use stores as keys."""

    def put(self, key: str, source: Path | BinaryIO) -> StoredFile:
        """Publish a file under its key, atomically."""

    def measure(self, key: str) -> StoredFile:
        """Read a file back and return its actual size and hash."""

    def fetch(self, key: str, target: Path, *, sha256: str | None = None) -> None:
        """Copy a file to a local path, atomically; verify ``sha256`` if given."""

    def open(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Iterate over the bytes from ``start`` in chunks. Raises immediately if the file does not exist."""

    def size(self, key: str) -> int | None:
        """Return the size in bytes; None if the file does not exist."""

    def local_path(self, key: str) -> Path | None:
        """Return the path of the file if it is on this machine, for reading only; else None."""

    def sign_url(self, key: str, method: Literal["GET", "PUT"], seconds: float) -> str | None:
        """Return a URL with which a client reads or writes the file itself; None if the store has no such URLs."""

    def delete(self, key: str) -> None:
        """Delete a file; do nothing if it does not exist."""

    def delete_prefix(self, prefix: str) -> int:
        """Delete all files under a folder of keys; return their number."""

    def list_prefix(self, prefix: str = "") -> Iterator[ListedFile]:
        """List the files under a folder of keys, or all."""

    def remove_partials(self, older_than_seconds: float) -> int:
        """Delete files whose publication was interrupted; return their number."""


def check_key(key: str) -> str:
    """Return ``key`` if it is valid. Raises ``ValueError`` otherwise, for example for a path out of the store."""
    if len(key) > _MAX_KEY_LENGTH or not all(_KEY_PART.fullmatch(part) for part in key.split("/")):
        raise ValueError(f"{key!r} is not a valid key")
    return key


class LocalArtifactStore:
    """Artifact store in a local folder, or in one that all machines mount."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / _PARTIAL_DIR).mkdir(parents=True, exist_ok=True)

    def put(self, key: str, source: Path | BinaryIO) -> StoredFile:
        """Publish a file under its key, atomically."""
        target = self._path(key)
        partial = self._root / _PARTIAL_DIR / secrets.token_hex(16)
        try:
            with _translate_errors(key):
                size, digest = _copy(source, partial)
                fault_point("store.copied")
                _publish(partial, target)
                fault_point("store.moved")
        finally:
            partial.unlink(missing_ok=True)
        return StoredFile(key, size, digest)

    def measure(self, key: str) -> StoredFile:
        """Read a file back and return its actual size and hash."""
        with _translate_read_errors(key), self._path(key).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return StoredFile(key, os.fstat(file.fileno()).st_size, digest.hexdigest())

    def fetch(self, key: str, target: Path, *, sha256: str | None = None) -> None:
        """Copy a file to a local path, atomically; verify ``sha256`` if given."""
        partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        try:
            with _translate_read_errors(key):
                source = self._path(key).open("rb")
            with source, _translate_errors(key):
                target.parent.mkdir(parents=True, exist_ok=True)
                _, digest = _copy(source, partial, durable=False)
                if sha256 is not None and digest != sha256:
                    raise StoredFileDamaged(f"The stored file {key} is damaged: its sha256 differs.")
                fault_point("store.fetched")
                partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def open(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Iterate over the bytes from ``start`` in chunks. Raises immediately if the file does not exist."""
        with _translate_read_errors(key):
            file = self._path(key).open("rb")
            file.seek(start)
        return _iter_chunks(file, length)

    def size(self, key: str) -> int | None:
        """Return the size in bytes; None if the file does not exist."""
        path = self._path(key)
        return path.stat().st_size if path.is_file() else None

    def local_path(self, key: str) -> Path | None:
        """Return the path of the file, for reading only; None if it does not exist."""
        path = self._path(key)
        return path if path.is_file() else None

    def sign_url(self, key: str, method: Literal["GET", "PUT"], seconds: float) -> str | None:  # noqa: ARG002
        """Return None: clients cannot reach a folder."""
        check_key(key)
        return None

    def delete(self, key: str) -> None:
        """Delete a file and the folders that become empty."""
        path = self._path(key)
        with _translate_errors(key):
            path.unlink(missing_ok=True)
        self._remove_empty_dirs(path.parent)

    def delete_prefix(self, prefix: str) -> int:
        """Delete all files under a folder of keys; return their number."""
        keys = [listed.key for listed in self.list_prefix(prefix)]
        for key in keys:
            self.delete(key)
        return len(keys)

    def list_prefix(self, prefix: str = "") -> Iterator[ListedFile]:
        """List the files under a folder of keys, or all; files that are deleted meanwhile are skipped."""
        top = self._path(prefix) if prefix else self._root
        for folder, folders, names in os.walk(top):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(folder, name)
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                modified_at = datetime.fromtimestamp(stat.st_mtime, UTC)
                yield ListedFile(path.relative_to(self._root).as_posix(), stat.st_size, modified_at)

    def remove_partials(self, older_than_seconds: float) -> int:
        """Delete files whose publication was interrupted; return their number."""
        removed = 0
        for path in (self._root / _PARTIAL_DIR).iterdir():
            try:
                if path.stat().st_mtime < time.time() - older_than_seconds:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # published or removed concurrently
                continue
        return removed

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _remove_empty_dirs(self, folder: Path) -> None:
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:  # not empty, or removed concurrently
                return
            folder = folder.parent


@contextmanager
def _translate_errors(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"The artifact store failed at {key}: {disk_error_reason(error)}.") from error


@contextmanager
def _translate_read_errors(key: str) -> Iterator[None]:
    with _translate_errors(key):
        try:
            yield
        except FileNotFoundError as error:
            raise StoredFileDamaged(f"The stored file {key} is missing.") from error


def _copy(source: Path | BinaryIO, target: Path, *, durable: bool = True) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as out:
        for chunk in _iter_chunks(source.open("rb"), None) if isinstance(source, Path) else _iter_stream(source):
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        out.flush()
        if durable:
            os.fsync(out.fileno())
    return size, digest.hexdigest()


def _publish(partial: Path, target: Path) -> None:
    deadline = time.monotonic() + _PUBLISH_TIMEOUT_SECONDS
    while True:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)
            break
        except (FileNotFoundError, FileExistsError):  # a concurrent delete removes empty folders
            if time.monotonic() >= deadline:
                raise StorageFailed(f"The folder of {target} is deleted as often as it is created.") from None
            time.sleep(random.uniform(0, _MAX_JITTER_SECONDS))  # noqa: S311 - jitter desynchronizes the two
    for folder in (target.parent, target.parent.parent):  # makes the directory entries durable
        with suppress(FileNotFoundError):  # deleted concurrently
            fsync(folder)


def _iter_stream(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK_BYTES):
        yield chunk


def _iter_chunks(file: BinaryIO, length: int | None) -> Iterator[bytes]:
    with file:
        remaining = length
        while remaining is None or remaining > 0:
            chunk = file.read(_CHUNK_BYTES if remaining is None else min(_CHUNK_BYTES, remaining))
            if not chunk:
                return
            yield chunk
            remaining = None if remaining is None else remaining - len(chunk)
