"""Cache of the datasets and models that jobs fetch from a bucket, shared by all jobs on this machine.

An entry of the disk cache holds the files of one dataset or model in ``files``. Its key is a digest of names and
hashes, so equal uploads share an entry. New files are downloaded to ``partial``, verified, synced and renamed. Each use
hashes every file again and replaces a damaged one. The entry's lock is held while a job uses it, so that it is not
evicted.

A cache that cannot be written or is full only costs time: the files are then fetched to the attempt's scratch folder.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import structlog

from core.errors import StorageFailed
from core.store.artifact_store import ArtifactStore, StoredFile
from core.system.disk import DISK_ERRORS, fsync
from core.system.disk_cache import DiskCache, describe_os_error, exclusive_lock
from worker.stored_files import fetch_folder

_CHUNK = 1024 * 1024

log = structlog.get_logger(__name__)

Poll = Callable[[], None]


class InputCache:
    """A cache of at most ``max_bytes`` in ``root``. Entries stay locked until the context manager exits."""

    def __init__(self, store: ArtifactStore, root: Path, max_bytes: int) -> None:
        self._store = store
        self._root = root
        self._max_bytes = max_bytes
        self._locks: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._locks:
            self._locks.pop().close()

    def fetch(self, files: Sequence[StoredFile], folder: Path, poll: Poll) -> Path:
        """Return a folder with these verified files: a read-only cache entry, or ``folder``, complete or absent.

        ``poll`` is called while another process fetches the entry and while files are hashed; it may raise. Raises
        ``StorageFailed``, or ``StoredFileDamaged`` if a stored file is lost or damaged.
        """
        entry_dir = None
        if self._max_bytes and files and all(self._store.local_path(file.key) is None for file in files):
            disk_cache = DiskCache(self._root, self._max_bytes)  # a new object: one that was full stays disabled
            entry_dir = self._fetch_entry(disk_cache, files, poll)
            if entry_dir is None:
                log.warning("inputs.not_cached", num_bytes=_size(files), reason=disk_cache.disabled_reason)
        return fetch_folder(self._store, files, folder) if entry_dir is None else entry_dir

    def _fetch_entry(self, disk_cache: DiskCache, files: Sequence[StoredFile], poll: Poll) -> Path | None:
        """Fetch and lock an entry; return None if it cannot be cached, and set the reason in ``disk_cache``."""
        if _size(files) > self._max_bytes:
            disk_cache.reserve(_size(files))  # evicts entries: the scratch folder is on the same disk
            return None
        key = _key(files)
        lock = disk_cache.pin(key, poll)
        if lock is None:
            return None
        try:
            entry = _Entry(self._store, disk_cache, disk_cache.root / key, poll)
            is_complete = not entry.missing(files) or entry.fill(files)
        except BaseException:
            lock.close()
            raise
        if not is_complete:
            lock.close()
            return None
        self._locks.append(lock)
        return entry.files


class _Entry:
    """A locked entry."""

    def __init__(self, store: ArtifactStore, disk_cache: DiskCache, folder: Path, poll: Poll) -> None:
        self.files = folder / "files"
        self._partial_dir = folder / "partial"
        self._folder = folder
        self._store = store
        self._disk_cache = disk_cache
        self._poll = poll

    def missing(self, files: Sequence[StoredFile]) -> list[StoredFile]:
        """Return the files that are absent or damaged."""
        return [file for file in files if not self._is_valid(file)]

    def fill(self, files: Sequence[StoredFile]) -> bool:
        """Fetch the missing files, or wait until another process has; return False if the cache cannot hold them."""
        try:
            self._folder.mkdir(exist_ok=True)
            with exclusive_lock(self._folder / "fill.lock", self._poll):
                shutil.rmtree(self._partial_dir, ignore_errors=True)  # left by a process that was killed
                if missing := self.missing(files):
                    self._disk_cache.reserve(_size(missing) - self._damaged_bytes(missing))
                    if self._disk_cache.disabled_reason is None:
                        self._fetch(missing)
        except OSError as error:
            self._disk_cache.disable(describe_os_error(error))
        except StorageFailed as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in DISK_ERRORS:
                raise  # an error of the bucket, not of this disk
            self._disk_cache.disable(describe_os_error(error.__cause__))
        return self._disk_cache.disabled_reason is None

    def _fetch(self, files: Sequence[StoredFile]) -> None:
        """Fetch all files before any becomes visible. Readers of a replaced file keep their open handle."""
        try:
            for file in files:
                self._poll()
                self._store.fetch(file.key, self._partial_dir / file.name, sha256=file.sha256)
                fsync(self._partial_dir / file.name)
            self.files.mkdir(exist_ok=True)
            for file in files:
                (self._partial_dir / file.name).replace(self.files / file.name)
            fsync(self.files)
        finally:
            shutil.rmtree(self._partial_dir, ignore_errors=True)

    def _damaged_bytes(self, files: Sequence[StoredFile]) -> int:
        """Return the size of the damaged files, which the fetch replaces."""
        paths = [self.files / file.name for file in files]
        return sum(path.stat().st_size for path in paths if path.exists())

    def _is_valid(self, file: StoredFile) -> bool:
        try:
            with (self.files / file.name).open("rb") as content:
                is_valid = self._hash(content) == (file.size_bytes, file.sha256)
        except FileNotFoundError:
            return False
        except OSError:  # an unreadable file is lost
            is_valid = False
        if not is_valid:
            log.warning("inputs.damaged", key=file.key)
        return is_valid

    def _hash(self, content: IO[bytes]) -> tuple[int, str]:
        digest = hashlib.sha256()
        while chunk := content.read(_CHUNK):
            self._poll()
            digest.update(chunk)
        return content.tell(), digest.hexdigest()


def _key(files: Sequence[StoredFile]) -> str:
    lines = sorted(f"{file.name} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _size(files: Sequence[StoredFile]) -> int:
    return sum(file.size_bytes for file in files)
