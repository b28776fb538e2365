"""What teachers said, on disk: numbers by sample, in shards that are whole or not there.

``<root>/<key>/<number>.shard`` is a BLAKE2b digest, a line of JSON and float16 rows, which begin at a multiple
of 64 bytes. The digest covers key
and number as well, so that a damaged, torn or misplaced shard is noticed when it is read, and made again.
``<root>/<key>.lock`` is held shared by who reads the entry and alone by who fills or deletes it; its time of
change is when the entry was last used. Whoever fills reads again first, so that work is done once.

No trouble with the disk reaches the caller: a store that cannot be written stops, says why, and holds
nothing from then on.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

_DIGEST_BYTES = 32
_ALIGNMENT = 64  # of rows in their file, so that they can be mapped
_WAIT_SECONDS = 0.05  # between two looks at a lock that another process holds
_SPARE_BYTES = 256 * 1024**2  # that the disk keeps free for everybody else

Rows = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Shard:
    """Some rows of an entry, and how long the teacher took for them."""

    rows: Rows  # (N, W)
    seconds: float


class Entry:
    """One entry while its lock is held; without a ``folder`` nothing is found and nothing is kept."""

    def __init__(self, store: AnswerStore, key: str, folder: Path | None) -> None:
        self._store = store
        self._key = key
        self._folder = folder

    def read(self, number: int, *, mapped: bool = False) -> Shard | None:
        """A shard, or None where there is none that is whole. ``mapped`` leaves its rows on disk once it was checked.

        Nothing changes a shard under its mapping: others only take its name away, or give it to another file.
        """
        if self._folder is None:
            return None
        path = self._path(self._folder, number)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if digest != self._digest(number, body):
            return None
        line, _, data = body.partition(b"\n")
        facts = json.loads(line)
        if not mapped:
            return Shard(np.frombuffer(data, dtype="<f2").reshape(facts["rows"], -1), facts["seconds"])
        try:
            rows = np.memmap(path, dtype="<f2", mode="r", offset=len(content) - len(data))
        except OSError:
            return None
        return Shard(np.asarray(rows).reshape(facts["rows"], -1), facts["seconds"])

    def write(self, number: int, shard: Shard) -> None:
        """Keep a shard, unless the store has stopped. Needs the entry for filling."""
        if self._folder is None or self._store.stopped is not None:
            return
        facts = {"rows": len(shard.rows), "seconds": round(shard.seconds, 6)}
        line = json.dumps(facts).encode()
        line += b" " * (-(_DIGEST_BYTES + len(line) + 1) % _ALIGNMENT) + b"\n"
        body = line + shard.rows.astype("<f2", copy=False).tobytes()
        path = self._path(self._folder, number)
        beside = path.with_suffix(".partial")  # one name: the lock's holder alone writes it
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(self._digest(number, body) + body)
            beside.replace(path)
        except OSError as error:
            self._store.stop(_in_words(error))
            _delete(beside)

    @staticmethod
    def _path(folder: Path, number: int) -> Path:
        return folder / f"{number:06d}.shard"

    def _digest(self, number: int, body: bytes) -> bytes:
        digest = hashlib.blake2b(f"{self._key}/{number}\n".encode(), digest_size=_DIGEST_BYTES)
        digest.update(body)
        return digest.digest()


class AnswerStore:
    """Entries by key, shared by all runs on this machine, of at most ``max_bytes`` together.

    ``stopped`` says why the store is not used any more; None while it is.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.stopped: str | None = None

    def stop(self, why: str) -> None:
        """Hold nothing from now on."""
        self.stopped = self.stopped or why

    @contextmanager
    def reading(self, key: str, poll: Callable[[], None]) -> Iterator[Entry]:
        """An entry that nobody deletes meanwhile. ``poll`` is called while another process fills it."""
        with self._locked(key, fcntl.LOCK_SH, poll) as entry:
            yield entry

    @contextmanager
    def filling(self, key: str, num_bytes: int, poll: Callable[[], None]) -> Iterator[Entry]:
        """An entry that nobody else reads or fills meanwhile, with room for ``num_bytes`` more."""
        with self._locked(key, fcntl.LOCK_EX, poll) as entry:
            if self.stopped is None:
                self._make_room(num_bytes)
            yield entry

    @contextmanager
    def _locked(self, key: str, how: int, poll: Callable[[], None]) -> Iterator[Entry]:
        lock = None if self.stopped is not None else self._lock(key, how, poll)
        if lock is None:
            yield Entry(self, key, None)
            return
        with lock:
            yield Entry(self, key, self.root / key)

    def _lock(self, key: str, how: int, poll: Callable[[], None]) -> IO[bytes] | None:
        """The entry's lock file, locked; None where the disk refuses it."""
        path = self._lock_path(key)
        while True:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                lock = path.open("ab")
            except OSError as error:
                self.stop(_in_words(error))
                return None
            if _try_lock(lock, how) and _is_still(lock, path):
                os.utime(lock.fileno())
                return lock
            lock.close()
            poll()
            time.sleep(_WAIT_SECONDS)

    def _lock_path(self, key: str) -> Path:
        return self.root / f"{key}.lock"

    def _make_room(self, num_bytes: int) -> None:
        """Delete entries that were used longest ago and are not in use, or stop."""
        try:
            sizes = {folder.name: _size(folder) for folder in self.root.iterdir() if folder.is_dir()}
            surplus = sum(sizes.values()) + num_bytes - self.max_bytes
            for key in sorted(sizes, key=self._used_at):
                if surplus <= 0:
                    break
                if self._evict(key):
                    surplus -= sizes[key]
            if surplus > 0:
                self.stop(f"it would need {num_bytes:,} bytes, {surplus:,} more than its {self.max_bytes:,} leave free")
            elif shutil.disk_usage(self.root).free < num_bytes + _SPARE_BYTES:
                self.stop(f"the disk has no room for {num_bytes:,} bytes")
        except OSError as error:
            self.stop(_in_words(error))

    def _used_at(self, key: str) -> float:
        try:
            return self._lock_path(key).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _evict(self, key: str) -> bool:
        """Delete an entry, unless it is in use."""
        path = self._lock_path(key)
        with path.open("ab") as lock:
            if not _try_lock(lock, fcntl.LOCK_EX) or not _is_still(lock, path):
                return False
            shutil.rmtree(self.root / key, ignore_errors=True)
            path.unlink(missing_ok=True)
            return True


def _try_lock(lock: IO[bytes], how: int) -> bool:
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
        return sum(path.stat().st_size for path in folder.iterdir())
    except FileNotFoundError:  # deleted meanwhile
        return 0


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a disk that cannot even forget
        return


def _in_words(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return f"{type(error).__name__}: {error}"
