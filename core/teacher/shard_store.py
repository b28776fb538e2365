"""Teacher outputs on disk: float16 rows by sample, in shards that are complete or absent.

``<root>/<key>/<index>.shard`` is a BLAKE2b digest, one line of JSON and float16 rows, which start at a multiple of 64
bytes. The digest covers key and index as well, so that a damaged, truncated or misplaced shard is detected when it is
read, and computed again. ``<root>/<key>/<index>.lock`` is locked by the one process that computes the shard. Eviction
is that of :class:`core.system.disk_cache.DiskCache`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.system.disk import atomic_path
from core.system.disk_cache import DiskCache, claim_lock, describe_os_error

_DIGEST_BYTES = 32
_ALIGNMENT = 64  # bytes; start of the rows in a shard, so that they can be memory-mapped

Rows = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive rows of an entry, and the seconds that the teacher took to compute them."""

    rows: Rows  # (N, W)
    seconds: float


class Entry:
    """One cache entry in use: the shards of one teacher and view. Without a ``folder`` it stays empty."""

    def __init__(self, store: ShardStore, key: str, folder: Path | None) -> None:
        self._store = store
        self._key = key
        self._folder = folder
        self.is_reserved = False

    def missing(self, num_shards: int) -> list[int]:
        """Return the indices of the shards without a file. A stored shard may still be damaged."""
        names = set() if self._folder is None else _file_names(self._folder)
        return [index for index in range(num_shards) if _shard_name(index) not in names]

    def reserve(self, num_bytes: int) -> None:
        """Make room for missing shards of ``num_bytes``; disable the store if there is none."""
        self.is_reserved = True
        self._store.reserve(num_bytes)

    @contextmanager
    def claim(self, index: int) -> Iterator[bool]:
        """Yield whether this process may compute shard ``index``: one process at a time may.

        True if the store is disabled or has a disk error, because then nothing is shared.
        """
        with ExitStack() as stack:
            is_claimed = True
            if self._folder is not None and self._store.disabled_reason is None:
                try:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    is_claimed = stack.enter_context(claim_lock(self._folder / _lock_name(index)))
                except OSError as error:
                    self._store.disable(describe_os_error(error))
            yield is_claimed

    def read(self, index: int, *, mapped: bool = False) -> Shard | None:
        """Load shard ``index``; return None if it is missing or corrupt.

        With ``mapped``, the rows stay on disk after the check. The bytes under a mapping never change: other processes
        only delete the file or replace it by another one.
        """
        if self._folder is None:
            return None
        path = self._folder / _shard_name(index)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if digest != self._digest(index, body):
            return None
        line, _, data = body.partition(b"\n")
        header = json.loads(line)
        if not mapped:
            return Shard(np.frombuffer(data, dtype="<f2").reshape(header["rows"], -1), header["seconds"])
        try:
            rows = np.memmap(path, dtype="<f2", mode="r", offset=len(content) - len(data))
        except OSError:
            return None
        return Shard(np.asarray(rows).reshape(header["rows"], -1), header["seconds"])

    def write(self, index: int, shard: Shard) -> None:
        """Save a shard, unless the store is disabled. A disk error disables it. Needs :meth:`claim`."""
        if self._folder is None or self._store.disabled_reason is not None:
            return
        header = {"rows": len(shard.rows), "seconds": round(shard.seconds, 6)}
        line = json.dumps(header).encode()
        line += b" " * (-(_DIGEST_BYTES + len(line) + 1) % _ALIGNMENT) + b"\n"
        body = line + shard.rows.astype("<f2", copy=False).tobytes()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # The digest detects a shard that a power cut truncated, so no fsync. The claim admits one writer.
            with atomic_path(self._folder / _shard_name(index), durable=False, unique=False) as temporary:
                temporary.write_bytes(self._digest(index, body) + body)
        except OSError as error:
            self._store.disable(describe_os_error(error))

    def _digest(self, index: int, body: bytes) -> bytes:
        digest = hashlib.blake2b(f"{self._key}/{index}\n".encode(), digest_size=_DIGEST_BYTES)
        digest.update(body)
        return digest.digest()


class ShardStore(DiskCache):
    """Entries by key, shared by all runs on this machine."""

    @contextmanager
    def open_entry(self, key: str, poll: Callable[[], None]) -> Iterator[Entry]:
        """Lock an entry against eviction. ``poll`` is called while another process evicts it, and may raise."""
        lock = self.pin(key, poll)
        if lock is None:
            yield Entry(self, key, None)
            return
        with lock:
            yield Entry(self, key, self.root / key)

    def num_unclaimed(self, key: str, num_shards: int) -> int:
        """Number of shards of an entry that are neither stored nor being computed; locks nothing.

        A shard whose process was killed while it computed it is not counted.
        """
        names = _file_names(self.root / key)
        return sum(_shard_name(index) not in names and _lock_name(index) not in names for index in range(num_shards))


def _shard_name(index: int) -> str:
    return f"{index:06d}.shard"


def _lock_name(index: int) -> str:
    return f"{index:06d}.lock"


def _file_names(folder: Path) -> set[str]:
    """Return the names of the files of an entry; none if it does not exist or cannot be read."""
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()


class CachedRows(ABC):
    """All rows of one teacher and view, indexed by sample."""

    @abstractmethod
    def rows(self, indices_B: Tensor) -> Tensor:
        """Return a copy of the rows of samples (int64 indices, on the CPU): float16 (B, W)."""


class InMemoryRows(CachedRows):
    """Rows in memory."""

    def __init__(self, shards: Sequence[Rows]) -> None:
        self._rows_NW = torch.from_numpy(np.concatenate(shards))

    def rows(self, indices_B: Tensor) -> Tensor:
        """Return a copy of the rows of samples."""
        return self._rows_NW.index_select(0, indices_B)


class MappedRows(CachedRows):
    """Rows in memory-mapped shards of ``shard_rows`` samples each; the last shard may be shorter."""

    def __init__(self, shards: Sequence[Rows], shard_rows: int) -> None:
        self._shards = shards
        self._shard_rows = shard_rows

    def rows(self, indices_B: Tensor) -> Tensor:
        """Return a copy of the rows of samples. Reads them in their order on disk."""
        indices = indices_B.numpy()
        rows_BW = np.empty((len(indices), self._shards[0].shape[1]), dtype=np.float16)
        for position in np.argsort(indices):
            shard, row = divmod(int(indices[position]), self._shard_rows)
            rows_BW[position] = self._shards[shard][row]
        return torch.from_numpy(rows_BW)
