"""Entries by key in a folder that all runs on this machine share, of at most so many bytes together.

``<root>/<key>/`` is an entry. ``<root>/<key>.lock`` is held shared by who reads it and alone by who fills or deletes
it; its time of change is when the entry was last used. Those used longest ago make room for others, and for everybody
else on a disk that runs full, never one whose lock is held.

No trouble with the disk reaches the caller: a folder that cannot be written stops, says why, and holds nothing from
then on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_WAIT_SECONDS = 0.05  # between two looks at a lock that another process holds
_SPARE_BYTES = 256 * 1024**2  # that the disk keeps free for everybody else


class DiskCache:
    """``stopped`` says why nothing is held here any more; None while it is."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.stopped: str | None = None

    def stop(self, why: str) -> None:
        """Hold nothing from now on."""
        self.stopped = self.stopped or why

    @contextmanager
    def to_read(self, key: str, poll: Callable[[], None]) -> Iterator[Path | None]:
        """An entry's folder, that nobody deletes meanwhile; None where nothing is held.

        ``poll`` is called while another process fills it, and may raise.
        """
        with self._locked(key, fcntl.LOCK_SH, poll) as folder:
            yield folder

    @contextmanager
    def to_fill(self, key: str, num_bytes: int, poll: Callable[[], None]) -> Iterator[Path | None]:
        """An entry's folder, that nobody else reads or fills meanwhile, with room for ``num_bytes`` more."""
        with self._locked(key, fcntl.LOCK_EX, poll) as folder:
            self.make_room(num_bytes)
            yield folder

    def kept(self, key: str, poll: Callable[[], None]) -> IO[bytes] | None:
        """The lock of an entry that nobody deletes until it is closed; None where nothing is held."""
        return None if self.stopped is not None else self._lock(key, fcntl.LOCK_SH, poll)

    @contextmanager
    def _locked(self, key: str, how: int, poll: Callable[[], None]) -> Iterator[Path | None]:
        lock = None if self.stopped is not None else self._lock(key, how, poll)
        if lock is None:
            yield None
            return
        with lock:
            yield self.root / key

    def _lock(self, key: str, how: int, poll: Callable[[], None]) -> IO[bytes] | None:
        """The entry's lock file, locked; None where the disk refuses it."""
        path = self._lock_path(key)
        while True:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                lock = path.open("ab")
            except OSError as error:
                self.stop(in_words(error))
                return None
            if _try_lock(lock, how) and _is_still(lock, path):
                os.utime(lock.fileno())
                return lock
            lock.close()
            poll()
            time.sleep(_WAIT_SECONDS)

    def _lock_path(self, key: str) -> Path:
        return self.root / f"{key}.lock"

    def make_room(self, num_bytes: int) -> None:
        """Delete entries that were used longest ago and are not in use, or stop."""
        if self.stopped is not None:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            sizes = self.sizes()
            surplus = sum(sizes.values()) + num_bytes - self.max_bytes
            in_vain = num_bytes > self.max_bytes  # then room on the disk is all that can be made
            for key in sorted(sizes, key=self.used_at):
                if (surplus <= 0 or in_vain) and self._disk_has(num_bytes):
                    break
                if self.evict(key):
                    surplus -= sizes[key]
            if surplus > 0:
                self.stop(f"it would need {num_bytes:,} bytes, {surplus:,} more than its {self.max_bytes:,} leave free")
            elif not self._disk_has(num_bytes):
                self.stop(f"the disk has no room for {num_bytes:,} bytes")
        except OSError as error:
            self.stop(in_words(error))

    def _disk_has(self, num_bytes: int) -> bool:
        return shutil.disk_usage(self.root).free >= num_bytes + _SPARE_BYTES

    def sizes(self) -> dict[str, int]:
        """The bytes of each entry, by its key."""
        return {folder.name: _size(folder) for folder in self.root.iterdir() if folder.is_dir()}

    def used_at(self, key: str) -> float:
        """When an entry was last begun to be used, in seconds since the epoch."""
        try:
            return self._lock_path(key).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def evict(self, key: str) -> bool:
        """Delete an entry, unless it is in use."""
        path = self._lock_path(key)
        with path.open("ab") as lock:
            if not _try_lock(lock, fcntl.LOCK_EX) or not _is_still(lock, path):
                return False
            shutil.rmtree(self.root / key, ignore_errors=True)
            path.unlink(missing_ok=True)
            return True


@contextmanager
def alone(lock_path: Path, poll: Callable[[], None]) -> Iterator[None]:
    """Be the only process that does a work, such as filling an entry that others may be reading.

    ``poll`` is called while another one does it, and may raise. If this process is killed, the kernel lets go.
    """
    with lock_path.open("w") as lock:
        while not _try_lock(lock, fcntl.LOCK_EX):
            poll()
            time.sleep(_WAIT_SECONDS)
        yield


def in_words(error: OSError) -> str:
    """Why the disk refused, for a person."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return f"{type(error).__name__}: {error}"


def _try_lock(lock: IO[Any], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)  # let go of by the kernel, also if this process is killed
    except BlockingIOError:
        return False
    return True


def _is_still(lock: IO[bytes], path: Path) -> bool:
    """Whether an open lock file is the one at its path: who deletes an entry deletes its lock as well."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except FileNotFoundError:  # deleted meanwhile
        return 0
