"""Files, behind one small interface: whole or absent, and known by their sha256.

Keys are relative paths such as ``jobs/job_…/a1/model.safetensors``. Publishing under a key that holds
the attempt, and naming the file by a guarded UPDATE afterwards, makes a stale worker harmless: what it
leaves is garbage for the collector.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

from core.errors import StorageFailed, StoredFileDamaged
from core.system.disk import sync, why
from core.system.fault_injection import fault_point

_CHUNK = 1024 * 1024
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # no part begins with a dot, so none is `.` or `..`
_LONGEST_KEY = 512
_PATIENCE_SECONDS = 10.0  # with a neighbour who deletes
_OUT_OF_STEP_SECONDS = 0.002
_PARTIAL = ".partial"  # no key begins with a dot, so nothing here is ever listed or read


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the store: where it is, how long, and what is in it."""

    key: str
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rsplit("/", 1)[-1]

    def as_json(self) -> dict[str, Any]:
        """The form in which rows keep it."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The file that a row speaks of."""
        return cls(document["key"], document["size_bytes"], document["sha256"])


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing says of a file."""

    key: str
    size_bytes: int
    modified_at: datetime


class ArtifactStore(Protocol):
    """Where files live. Raises ``StorageFailed``; ``ValueError`` for a key that could leave the store.

    ``StoredFileDamaged`` says that a file is gone or is not what was stored, and nothing else: a store that is full,
    read-only or out of reach has lost nothing.
    """

    def put(self, key: str, source: Path | BinaryIO) -> StoredFile:
        """Publish a file: whole under its key, or not there."""

    def measure(self, key: str) -> StoredFile:
        """Read a file back and hash what is really there."""

    def fetch(self, key: str, target: Path, *, sha256: str | None = None) -> None:
        """Copy a file to a local path (whole or not there), checked against ``sha256`` if given."""

    def open(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start``, in chunks. Raises at once where there is no such file."""

    def size(self, key: str) -> int | None:
        """The size in bytes, or None where there is no such file."""

    def local_path(self, key: str) -> Path | None:
        """The file itself where it is on this machine, to be read only; else None."""

    def delete(self, key: str) -> None:
        """Delete a file; nothing happens where there is none."""

    def delete_prefix(self, prefix: str) -> int:
        """Delete every file under a folder of keys; returns how many."""

    def list_prefix(self, prefix: str = "") -> Iterator[Listed]:
        """The files under a folder of keys, or all."""

    def remove_partials(self, older_than_seconds: float) -> int:
        """Delete what was never published whole; returns how many files."""


def check_key(key: str) -> str:
    """Return the key if it is one; raise ``ValueError`` for everything else, such as a path out of the store."""
    if len(key) > _LONGEST_KEY or not all(_PART.fullmatch(part) for part in key.split("/")):
        raise ValueError(f"{key!r} is not a key")
    return key


class LocalArtifactStore:
    """A folder on this machine (or one that all machines mount)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / _PARTIAL).mkdir(parents=True, exist_ok=True)

    def put(self, key: str, source: Path | BinaryIO) -> StoredFile:
        """Publish a file: whole under its key, or not there."""
        target = self._path(key)
        partial = self._root / _PARTIAL / secrets.token_hex(16)
        try:
            with _failing(key):
                size, digest = _copy(source, partial)
                fault_point("store.copied")
                _move(partial, target)
                fault_point("store.moved")
        finally:
            partial.unlink(missing_ok=True)
        return StoredFile(key, size, digest)

    def measure(self, key: str) -> StoredFile:
        """Read a file back and hash what is really there."""
        with _reading(key), self._path(key).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return StoredFile(key, os.fstat(file.fileno()).st_size, digest.hexdigest())

    def fetch(self, key: str, target: Path, *, sha256: str | None = None) -> None:
        """Copy a file to a local path (whole or not there), checked against ``sha256`` if given."""
        partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        try:
            with _reading(key):
                source = self._path(key).open("rb")
            with source, _failing(key):
                target.parent.mkdir(parents=True, exist_ok=True)
                _, digest = _copy(source, partial, durable=False)
                if sha256 is not None and digest != sha256:
                    raise StoredFileDamaged(f"The stored file {key} is not what was stored (its sha256 differs).")
                fault_point("store.fetched")
                partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def open(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start``, in chunks. Raises at once where there is no such file."""
        with _reading(key):
            file = self._path(key).open("rb")
            file.seek(start)
        return _chunks(file, length)

    def size(self, key: str) -> int | None:
        """The size in bytes, or None where there is no such file."""
        path = self._path(key)
        return path.stat().st_size if path.is_file() else None

    def local_path(self, key: str) -> Path | None:
        """The file itself, to be read only; None where there is no such file."""
        path = self._path(key)
        return path if path.is_file() else None

    def delete(self, key: str) -> None:
        """Delete a file and the folders that it leaves empty."""
        path = self._path(key)
        with _failing(key):
            path.unlink(missing_ok=True)
        self._prune(path.parent)

    def delete_prefix(self, prefix: str) -> int:
        """Delete every file under a folder of keys; returns how many."""
        keys = [listed.key for listed in self.list_prefix(prefix)]
        for key in keys:
            self.delete(key)
        return len(keys)

    def list_prefix(self, prefix: str = "") -> Iterator[Listed]:
        """The files under a folder of keys, or all; what vanishes meanwhile is left out."""
        top = self._path(prefix) if prefix else self._root
        for folder, folders, names in os.walk(top):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(folder, name)
                try:
                    facts = path.stat()
                except FileNotFoundError:
                    continue
                modified_at = datetime.fromtimestamp(facts.st_mtime, UTC)
                yield Listed(path.relative_to(self._root).as_posix(), facts.st_size, modified_at)

    def remove_partials(self, older_than_seconds: float) -> int:
        """Delete what was never published whole; returns how many files."""
        removed = 0
        for path in (self._root / _PARTIAL).iterdir():
            try:
                if path.stat().st_mtime < time.time() - older_than_seconds:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # published, or removed by somebody else, just now
                continue
        return removed

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _prune(self, folder: Path) -> None:
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:  # not empty, or gone already: both are fine
                return
            folder = folder.parent


@contextmanager
def _failing(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"The artefact store failed at {key}: {why(error)}.") from error


@contextmanager
def _reading(key: str) -> Iterator[None]:
    with _failing(key):
        try:
            yield
        except FileNotFoundError as error:
            raise StoredFileDamaged(f"The stored file {key} is not there.") from error


def _copy(source: Path | BinaryIO, target: Path, *, durable: bool = True) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as out:
        for chunk in _chunks(source.open("rb"), None) if isinstance(source, Path) else _read(source):
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        out.flush()
        if durable:
            os.fsync(out.fileno())
    return size, digest.hexdigest()


def _move(partial: Path, target: Path) -> None:
    ends = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)
            break
        except (FileNotFoundError, FileExistsError):  # a delete may prune a folder just as, or after, it is made
            if time.monotonic() >= ends:
                raise StorageFailed(f"The folder of {target} is deleted as often as it is made.") from None
            time.sleep(random.uniform(0, _OUT_OF_STEP_SECONDS))  # noqa: S311 - or both go on in step
    for folder in (target.parent, target.parent.parent):  # the names, as durable as the bytes behind them
        with suppress(FileNotFoundError):  # deleted again at once by somebody, with what was in it
            sync(folder)


def _read(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        yield chunk


def _chunks(file: BinaryIO, length: int | None) -> Iterator[bytes]:
    with file:
        left = length
        while left is None or left > 0:
            chunk = file.read(_CHUNK if left is None else min(_CHUNK, left))
            if not chunk:
                return
            yield chunk
            left = None if left is None else left - len(chunk)
