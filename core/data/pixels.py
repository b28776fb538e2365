"""Decoded pixels of one split at one size: mapped into memory where they fit a budget, else decoded on demand.

Nothing that is trained with them shows which.
"""

from __future__ import annotations

import errno
import math
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.data.decoding import DecodedOnDemand, decode_on_demand, decoded, square
from core.data.stored import UNLABELLED, SplitName, StoredDataset, StoredSplit
from core.reporting import PIXEL_CACHE_BYTES
from core.system.disk_cache import DiskCache, alone

__all__ = ["Images", "Pixels", "load_pixels", "square"]

_BLOCK = 32  # images decoded between two calls of ``progress``
_FILE = "images.npy"


class Images(Protocol):
    """Pictures (N, C, H, W) uint8: an array of them, or what is indexed like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, C, H, W."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Pixels:
    """All pictures of a split, in the order of their paths, with their labels.

    ``images`` are read-only, on disk or decoded on demand; ``labels`` is int64 (N,), −1 throughout
    where the dataset has no classes. ``places``: which of the images these are; None: all of them.
    """

    images: Images
    labels: Tensor
    indices: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        """The pictures at ``indices`` (int64, on the CPU): uint8 (B, C, H, W), a copy of its own."""
        return torch.from_numpy(self.images[self._rows(indices)])

    @property
    def on_demand(self) -> bool:
        """Whether it helps to say which pictures come next."""
        return isinstance(self.images, DecodedOnDemand)

    def expect(self, batches: Sequence[Tensor]) -> None:
        """Say which pictures are asked for next, batch by batch, in place of what was said before."""
        if isinstance(self.images, DecodedOnDemand):
            self.images.expect([self._rows(indices) for indices in batches])

    def without_labels(self) -> Pixels:
        """The same pictures, whose labels nobody can read."""
        return Pixels(self.images, torch.full((len(self),), UNLABELLED), self.indices)

    def unlabelled(self, places: npt.NDArray[np.int64]) -> Pixels:
        """Some of all pictures without their labels; nothing is read."""
        assert self.indices is None, "taken from all pictures"
        return Pixels(self.images, torch.full((len(places),), UNLABELLED), places)

    def _rows(self, indices: Tensor) -> npt.NDArray[np.int64]:
        return indices.numpy() if self.indices is None else self.indices[indices.numpy()]


def load_pixels(
    stored: StoredDataset,
    split: SplitName,
    image_size: int,
    cache: Path,
    *,
    max_bytes: int = PIXEL_CACHE_BYTES,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Pixels:
    """A split at ``image_size`` pixels a side: decoded now, found decoded in ``cache/pixels``, or to be decoded.

    Each picture is the largest square at its centre, resized by Pillow's antialiased bicubic filter. All splits of
    all runs take at most ``max_bytes``; those used longest ago make room. Where that, or the disk, has no room,
    pictures are decoded by ``threads`` threads when they are asked for.

    ``progress(done, total)`` is called now and then while decoding and while another process does; what it raises
    ends the work. Processes that ask for the same at once do the work once. Raises
    :class:`core.errors.StorageFailed` where a stored image is damaged; on demand, it is raised later.
    """
    samples = stored.split(split)
    shape = (len(samples), stored.channels, image_size, image_size)
    images: Images | None = None
    if math.prod(shape) <= max_bytes:
        kept = DiskCache(cache / "pixels", max_bytes)
        key = f"{stored.fingerprint}-{image_size}-{split}"
        images = _Decoding(samples, shape, threads, progress or _nobody_listens).kept_in(kept, key)
    if images is None:
        images = decode_on_demand(stored.folder, split, image_size, threads=threads)
    return Pixels(images=images, labels=torch.from_numpy(samples.labels.copy()))


@dataclass(frozen=True, slots=True)
class _Decoding:
    """The work on one split: ``shape`` is that of the array that it makes, ``progress`` may end it."""

    samples: StoredSplit
    shape: tuple[int, ...]
    threads: int
    progress: Callable[[int, int], None]

    def kept_in(self, folder: DiskCache, key: str) -> npt.NDArray[np.uint8] | None:
        """The array, which nobody deletes while it is used; None where there is no room for it."""
        used = folder.kept(key, self._poll)
        if used is None:
            return None
        images = None
        try:
            path = folder.root / key / _FILE
            images = self._whole(path)
            if images is None:
                images = self._made(folder, path)
        finally:
            if images is None:
                used.close()
            else:
                weakref.finalize(images, used.close)
        return images

    def _made(self, folder: DiskCache, path: Path) -> npt.NDArray[np.uint8] | None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with alone(path.with_suffix(".lock"), self._poll):
                images = self._whole(path)
                if images is not None:
                    return images
                folder.make_room(math.prod(self.shape))
                if folder.stopped is not None:
                    return None
                self._decode_to(path)
                return self._whole(path)
        except OSError:  # a disk that refuses is no reason to fail: pictures can be decoded on demand
            return None

    def _whole(self, path: Path) -> npt.NDArray[np.uint8] | None:
        """The array in the cache, or None where there is none that is whole."""
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):  # a damaged file is made again: this is a cache
            return None
        return images if images.shape == self.shape and images.dtype == np.uint8 else None

    def _decode_to(self, path: Path) -> None:
        """Write the array beside its place, then rename it, so that it is there whole or not at all."""
        beside = path.with_suffix(".partial")  # one name: the lock's holder alone writes it, leftovers are overwritten
        try:
            images = np.lib.format.open_memmap(beside, mode="w+", dtype=np.uint8, shape=self.shape)
            _take_room(beside)
            self._fill(images)
            images.flush()
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def _fill(self, images: npt.NDArray[np.uint8]) -> None:
        total = self.shape[0]

        def decode(index: int) -> None:
            images[index] = decoded(self.samples, index, self.shape[-1])

        with ThreadPoolExecutor(max_workers=self.threads) as pool:
            for start in range(0, total, _BLOCK):
                end = min(start + _BLOCK, total)
                list(pool.map(decode, range(start, end)))
                self.progress(end, total)

    def _poll(self) -> None:
        self.progress(0, self.shape[0])


def _take_room(path: Path) -> None:
    """Have the disk give a file all of its room now. A write to a mapped page that finds none is no error: it kills."""
    allocate = getattr(os, "posix_fallocate", None)  # macOS has none
    if allocate is None:
        return
    with path.open("r+b") as file:
        try:
            allocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:  # some file systems cannot promise it
                raise


def _nobody_listens(_done: int, _total: int) -> None:
    """Progress that nobody asked for."""
