"""What teachers said, on disk: numbers by sample, in shards that are whole or not there.

``<root>/<key>/<number>.shard`` is a BLAKE2b digest, a line of JSON and float16 rows, which begin at a multiple
of 64 bytes. The digest covers key and number as well, so that a damaged, torn or misplaced shard is noticed when
it is read, and made again. Whoever fills reads again first, so that work is done once. Locks and room are those of
a shared folder.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.system.disk_cache import DiskCache, in_words

_DIGEST_BYTES = 32
_ALIGNMENT = 64  # of rows in their file, so that they can be mapped

Rows = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Shard:
    """Some rows of an entry, and how long the teacher took for them."""

    rows: Rows  # (N, W)
    seconds: float


class Entry:
    """One entry while its lock is held; without a ``folder`` nothing is found and nothing is kept."""

    def __init__(self, store: ShardStore, key: str, folder: Path | None) -> None:
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
            self._store.stop(in_words(error))
            _delete(beside)

    @staticmethod
    def _path(folder: Path, number: int) -> Path:
        return folder / f"{number:06d}.shard"

    def _digest(self, number: int, body: bytes) -> bytes:
        digest = hashlib.blake2b(f"{self._key}/{number}\n".encode(), digest_size=_DIGEST_BYTES)
        digest.update(body)
        return digest.digest()


class ShardStore(DiskCache):
    """Entries by key, shared by all runs on this machine."""

    @contextmanager
    def reading(self, key: str, poll: Callable[[], None]) -> Iterator[Entry]:
        """An entry that nobody deletes meanwhile. ``poll`` is called while another process fills it."""
        with self.to_read(key, poll) as folder:
            yield Entry(self, key, folder)

    @contextmanager
    def filling(self, key: str, num_bytes: int, poll: Callable[[], None]) -> Iterator[Entry]:
        """An entry that nobody else reads or fills meanwhile, with room for ``num_bytes`` more."""
        with self.to_fill(key, num_bytes, poll) as folder:
            yield Entry(self, key, folder)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a disk that cannot even forget
        return


class CachedRows(ABC):
    """Rows by sample."""

    @abstractmethod
    def rows(self, indices_B: Tensor) -> Tensor:
        """The rows of samples (int64, on the CPU): float16 (B, W), a copy of its own."""


class InMemoryRows(CachedRows):
    """Rows in memory."""

    def __init__(self, shards: Sequence[Rows]) -> None:
        self._said_NW = torch.from_numpy(np.concatenate(shards))

    def rows(self, indices_B: Tensor) -> Tensor:
        """The rows of samples."""
        return self._said_NW.index_select(0, indices_B)


class MappedRows(CachedRows):
    """Rows as shards have them, of ``shard_rows`` samples each but for the last one."""

    def __init__(self, shards: Sequence[Rows], shard_rows: int) -> None:
        self._shards = shards
        self._shard_rows = shard_rows

    def rows(self, indices_B: Tensor) -> Tensor:
        """The rows of samples, those of each shard in the order in which they lie on disk."""
        places = indices_B.numpy()
        said_BW = np.empty((len(places), self._shards[0].shape[1]), dtype=np.float16)
        for position in np.argsort(places):
            number, row = divmod(int(places[position]), self._shard_rows)
            said_BW[position] = self._shards[number][row]
        return torch.from_numpy(said_BW)
