"""A size-limited cache of folders on disk, shared by all processes of this machine, with LRU eviction.

``<root>/<key>/`` is an entry. Processes that use it hold a shared ``flock`` on ``<root>/<key>.lock``, and an eviction
holds an exclusive one. The modification time of the lock file is the last use of the entry. The least recently used
entries are evicted when the cache or the disk is full. An entry whose lock is held is never evicted. Which process
writes a file of an entry is decided by a lock of that file.

Disk errors do not reach the caller: the cache disables itself, stores the reason and has no entries from then on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

POLL_SECONDS = 0.05  # between two attempts at a lock that another process holds
_ID_FILE = "cache_id"  # in the root
_SPARE_BYTES = 256 * 1024**2  # left free on the disk for other programs


class DiskCache:
    """A shared folder of entries. ``disabled_reason`` is None while the cache is enabled."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.disabled_reason: str | None = None

    def disable(self, reason: str) -> None:
        """Disable the cache for this process. The first reason is retained."""
        self.disabled_reason = self.disabled_reason or reason

    def pin(self, key: str, poll: Callable[[], None]) -> IO[bytes] | None:
        """Lock an entry against eviction until the returned file is closed; None if the cache is disabled.

        ``poll`` is called while another process evicts the entry, and may raise.
        """
        path = self._lock_path(key)
        while self.disabled_reason is None:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                lock = path.open("ab")
            except OSError as error:
                self.disable(describe_os_error(error))
                return None
            if _try_lock(lock, fcntl.LOCK_SH) and _is_current(lock, path):
                os.utime(lock.fileno())
                return lock
            lock.close()
            poll()
            time.sleep(POLL_SECONDS)
        return None

    def _lock_path(self, key: str) -> Path:
        return self.root / f"{key}.lock"

    def reserve(self, num_bytes: int) -> None:
        """Evict the least recently used entries until ``num_bytes`` fit, or disable the cache."""
        if self.disabled_reason is not None:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            sizes = self.sizes()
            surplus = sum(sizes.values()) + num_bytes - self.max_bytes
            never_fits = num_bytes > self.max_bytes  # evictions can then only help the disk
            for key in sorted(sizes, key=self.last_used):
                if (surplus <= 0 or never_fits) and self._disk_has(num_bytes):
                    break
                if self.evict(key):
                    surplus -= sizes[key]
            if surplus > 0:
                self.disable(
                    f"it needs {num_bytes:,} bytes, {surplus:,} bytes more than the limit of {self.max_bytes:,} allows"
                )
            elif not self._disk_has(num_bytes):
                self.disable(f"the disk has no room for {num_bytes:,} bytes")
        except OSError as error:
            self.disable(describe_os_error(error))

    def _disk_has(self, num_bytes: int) -> bool:
        return shutil.disk_usage(self.root).free >= num_bytes + _SPARE_BYTES

    def sizes(self) -> dict[str, int]:
        """Size of each entry in bytes, by key."""
        return {folder.name: _size(folder) for folder in self.root.iterdir() if folder.is_dir()}

    def last_used(self, key: str) -> float:
        """Start of the last use of an entry, in seconds since the epoch; 0 if it was never used."""
        try:
            return self._lock_path(key).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def evict(self, key: str) -> bool:
        """Delete an entry unless it is in use. Return whether it was deleted."""
        path = self._lock_path(key)
        with path.open("ab") as lock:
            if not _try_lock(lock, fcntl.LOCK_EX) or not _is_current(lock, path):
                return False
            shutil.rmtree(self.root / key, ignore_errors=True)
            path.unlink(missing_ok=True)
            return True


def cache_id(root: Path) -> str:
    """Return the ID of a cache folder, equal for all processes that share it, on any machine.

    The first call creates it. Raises ``OSError``.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / _ID_FILE
    if not path.exists():
        temporary = root / f".{_ID_FILE}.{secrets.token_hex(4)}"
        temporary.write_text(secrets.token_hex(16))
        with suppress(FileExistsError):  # another process was first
            os.link(temporary, path)
        temporary.unlink()
    return path.read_text()


@contextmanager
def exclusive_lock(lock_path: Path, poll: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock between processes, for example while filling an entry that others may read.

    ``poll`` is called while another process holds the lock, and may raise. The kernel releases the lock of a killed
    process.
    """
    with lock_path.open("w") as lock:
        while not _try_lock(lock, fcntl.LOCK_EX):
            poll()
            time.sleep(POLL_SECONDS)
        yield


@contextmanager
def claim_lock(lock_path: Path) -> Iterator[bool]:
    """Yield whether this process holds an exclusive lock; False at once while another process holds it.

    The holder deletes the lock file at the end. The kernel releases the lock of a killed process, whose file remains.
    Raises ``OSError`` if the file cannot be created.
    """
    with lock_path.open("ab") as lock:
        if not (_try_lock(lock, fcntl.LOCK_EX) and _is_current(lock, lock_path)):
            yield False
            return
        try:
            yield True
        finally:
            lock_path.unlink(missing_ok=True)


def describe_os_error(error: OSError) -> str:
    """Short reason of a disk error for a message."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return f"{type(error).__name__}: {error}"


def _try_lock(lock: IO[Any], operation: int) -> bool:
    try:
        fcntl.flock(lock, operation | fcntl.LOCK_NB)  # the kernel releases it when the process ends or is killed
    except BlockingIOError:
        return False
    return True


def _is_current(lock: IO[bytes], path: Path) -> bool:
    """Whether an open lock file is still the file at ``path``: eviction deletes the lock file with its entry."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except FileNotFoundError:  # deleted by another process
        return 0
