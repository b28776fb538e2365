"""Decoded pixels of one split at one size: made once, kept in a cache folder, mapped into memory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from core.data.stored import UNLABELLED, SplitName, StoredDataset, StoredSplit

_BLOCK = 32  # images decoded between two calls of ``progress``


@dataclass(frozen=True, slots=True)
class Pixels:
    """All pictures of a split, in the order of their paths, with their labels.

    ``images`` is a read-only uint8 array (N, C, H, W) on disk; ``labels`` is int64 (N,), −1 throughout
    where the dataset has no classes. ``places``: which of the images these are; None: all of them.
    """

    images: npt.NDArray[np.uint8]
    labels: Tensor
    places: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        """The pictures at ``indices`` (int64, on the CPU): uint8 (B, C, H, W), a copy of its own."""
        rows = indices.numpy() if self.places is None else self.places[indices.numpy()]
        return torch.from_numpy(self.images[rows])

    def without_labels(self) -> Pixels:
        """The same pictures, whose labels nobody can read."""
        return Pixels(self.images, torch.full((len(self),), UNLABELLED), self.places)

    def unlabelled(self, places: npt.NDArray[np.int64]) -> Pixels:
        """Some of all pictures without their labels; nothing is read."""
        assert self.places is None, "taken from all pictures"
        return Pixels(self.images, torch.full((len(places),), UNLABELLED), places)


def load_pixels(
    stored: StoredDataset,
    split: SplitName,
    image_size: int,
    cache: Path,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Pixels:
    """Decode a split to ``image_size`` pixels a side, or find it decoded in ``cache/pixels``.

    Each picture is the largest square at its centre, resized by Pillow's antialiased bicubic filter.
    ``progress(done, total)`` is called now and then while decoding; what it raises ends the work.
    Processes that ask for the same at once do the work once. Raises :class:`core.errors.StorageFailed`
    where a stored image is damaged.
    """
    samples = stored.split(split)
    shape = (len(samples), stored.channels, image_size, image_size)
    folder = cache / "pixels"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stored.fingerprint}-{image_size}-{split}.npy"
    images = _kept(path, shape)
    if images is None:
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go of by the kernel, also if this process is killed
            images = _kept(path, shape)
            if images is None:
                _decode_to(path, samples, shape, threads, progress)
                images = np.load(path, mmap_mode="r")
    return Pixels(images=images, labels=torch.from_numpy(samples.labels.copy()))


def square(picture: Image.Image, side: int) -> Image.Image:
    """The largest square at a picture's centre, ``side`` pixels wide."""
    width, height = picture.size
    edge = min(width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    return picture.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))


def _kept(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """The array in the cache, or None where there is none that is whole."""
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):  # a damaged file is made again: this is a cache
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _decode_to(
    path: Path,
    samples: StoredSplit,
    shape: tuple[int, ...],
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write the array beside its place, then rename it, so that it is there whole or not at all."""
    beside = path.with_suffix(".partial")  # one name: the lock's holder alone writes it, leftovers are overwritten
    images = np.lib.format.open_memmap(beside, mode="w+", dtype=np.uint8, shape=shape)

    def decode(index: int) -> None:
        picture = np.asarray(square(samples.read(index), shape[-1]))
        images[index] = picture.reshape(shape[2], shape[3], shape[1]).transpose(2, 0, 1)

    try:
        with ThreadPoolExecutor(max_workers=threads) as pool:
            for start in range(0, shape[0], _BLOCK):
                end = min(start + _BLOCK, shape[0])
                list(pool.map(decode, range(start, end)))
                if progress is not None:
                    progress(end, shape[0])
        images.flush()
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
