"""Decoded pixels of one split at one size: memory-mapped where they fit a size limit, else decoded on demand.

Both give the same bits.
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

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.data.concatenated import ConcatenatedImages
from core.data.decoding import DecodedOnDemandImages, Images, center_square, decode_image, decode_on_demand
from core.data.stored import UNLABELED, SplitName, StoredDataset, StoredSplit
from core.reporting import PIXEL_CACHE_BYTES
from core.system.disk import atomic_path
from core.system.disk_cache import DiskCache, exclusive_lock

__all__ = ["Images", "Pixels", "center_square", "load_pixels"]

_BLOCK = 32  # images between two calls of ``progress``
_FILE = "images.npy"
_FORMAT = 2  # incremented when a change of the decoding changes the pixels


@dataclass(frozen=True, slots=True)
class Pixels:
    """Images and labels of a split or of a part of it, in the order of their paths.

    ``images`` are read-only, on disk or decoded on demand. ``labels`` is int64 (N,), all −1 for a dataset without
    classes. ``indices`` selects N of the images; None selects all.
    """

    images: Images
    labels: Tensor
    indices: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        """Return a copy of the images at ``indices`` (int64, on the CPU): uint8 (B, C, H, W)."""
        return torch.from_numpy(self.images[self._rows(indices)])

    @property
    def is_decoded_on_demand(self) -> bool:
        """Whether images are decoded on access, so that :meth:`prefetch` has an effect."""
        return isinstance(self.images, DecodedOnDemandImages | ConcatenatedImages) and self.images.is_decoded_on_demand

    def prefetch(self, batches: Sequence[Tensor]) -> None:
        """Announce the next batches; replaces the batches announced before."""
        if isinstance(self.images, DecodedOnDemandImages | ConcatenatedImages):
            self.images.prefetch([self._rows(indices) for indices in batches])

    def followed_by(self, other: Pixels) -> Pixels:
        """Return these samples, then those of ``other``, with their labels. Reads no image."""
        images = ConcatenatedImages(self.images, other.images)
        rows = np.concatenate(
            (self._rows(torch.arange(len(self))), other._rows(torch.arange(len(other))) + len(self.images))
        )
        return Pixels(images, torch.cat((self.labels, other.labels)), rows)

    def without_labels(self) -> Pixels:
        """Return the same images with all labels set to −1."""
        return Pixels(self.images, torch.full((len(self),), UNLABELED), self.indices)

    def unlabeled_subset(self, indices: npt.NDArray[np.int64]) -> Pixels:
        """Return a part of a complete split with all labels set to −1. Reads no image."""
        assert self.indices is None, "a subset of a subset is not supported"
        return Pixels(self.images, torch.full((len(indices),), UNLABELED), indices)

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
    """Load a split at ``image_size`` pixels per side from ``cache/pixels``; on a miss, decode it into the cache.

    Each image is the largest square at the image's center, resized by Pillow's antialiased bicubic filter; large JPEGs
    of the training split are decoded at a fraction of their size (:func:`core.data.decoding.decode_image`).
    Concurrent processes decode a split once. The cache holds the splits of all runs, up to ``max_bytes``. Where it or
    the disk has no space for the split, ``threads`` threads decode each image on access.

    ``progress(done, total)`` is called regularly while this or another process decodes; it may raise to interrupt.

    Raises:
        StorageFailed: A stored image is damaged. Decoding on demand raises it on access.
    """
    stored_split = stored.split(split)
    shape = (len(stored_split), stored.channels, image_size, image_size)
    images: Images | None = None
    if math.prod(shape) <= max_bytes:
        disk_cache = DiskCache(cache / "pixels", max_bytes)
        key = f"v{_FORMAT}.{stored.fingerprint}-{image_size}-{split}"
        images = _SplitArray(stored_split, shape, threads, progress or _no_progress).load(disk_cache, key)
    if images is None:
        images = decode_on_demand(stored.folder, split, image_size, threads=threads)
    return Pixels(images=images, labels=torch.from_numpy(stored_split.labels.copy()))


@dataclass(frozen=True, slots=True)
class _SplitArray:
    """Loads or decodes the array of one split. ``shape`` is (N, C, H, W); ``progress`` may raise to interrupt."""

    split: StoredSplit
    shape: tuple[int, ...]
    threads: int
    progress: Callable[[int, int], None]

    def load(self, cache: DiskCache, key: str) -> npt.NDArray[np.uint8] | None:
        """Return the memory-mapped array; None where the cache has no space for it.

        The entry is pinned until the array is garbage-collected.
        """
        pin = cache.pin(key, self._poll)
        if pin is None:
            return None
        images = None
        try:
            path = cache.root / key / _FILE
            images = self._open(path)
            if images is None:
                images = self._create(cache, path)
        finally:
            if images is None:
                pin.close()
            else:
                weakref.finalize(images, pin.close)
        return images

    def _create(self, cache: DiskCache, path: Path) -> npt.NDArray[np.uint8] | None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(path.with_suffix(".lock"), self._poll):
                images = self._open(path)
                if images is not None:
                    return images
                cache.reserve(math.prod(self.shape))
                if cache.disabled_reason is not None:
                    return None
                self._decode_to(path)
                return self._open(path)
        except OSError:  # a disk error does not fail the run: images can be decoded on demand
            return None

    def _open(self, path: Path) -> npt.NDArray[np.uint8] | None:
        """Memory-map the cached array; return None if it is missing or damaged."""
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):  # a damaged file is decoded again
            return None
        return images if images.shape == self.shape and images.dtype == np.uint8 else None

    def _decode_to(self, path: Path) -> None:
        with atomic_path(path, unique=False) as temporary:  # the lock admits one writer
            images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=self.shape)
            _allocate(temporary)
            self._fill(images)
            images.flush()

    def _fill(self, images: npt.NDArray[np.uint8]) -> None:
        total = self.shape[0]

        def decode(index: int) -> None:
            images[index] = decode_image(self.split, index, self.shape[-1])

        with ThreadPoolExecutor(max_workers=self.threads) as pool:
            for start in range(0, total, _BLOCK):
                end = min(start + _BLOCK, total)
                list(pool.map(decode, range(start, end)))
                self.progress(end, total)

    def _poll(self) -> None:
        self.progress(0, self.shape[0])


def _allocate(path: Path) -> None:
    """Allocate all disk blocks of a file now: a write to a mapped page without a block raises SIGBUS on a full disk."""
    allocate = getattr(os, "posix_fallocate", None)  # macOS has none
    if allocate is None:
        return
    with path.open("r+b") as file:
        try:
            allocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:  # not supported by some file systems
                raise


def _no_progress(_done: int, _total: int) -> None:
    """Ignore progress."""
