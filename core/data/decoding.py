"""Images that are decoded on access, or prefetched where the next batches are known.

Shapes: N images, B of a batch, C channels, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.data.stored import SplitName, StoredDataset, StoredSplit

ImageArray = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

_MIN_ENLARGED = 2  # shorter side of a scaled JPEG, relative to the image size: the resampling filter does the rest


def center_square(image: Image.Image, side: int) -> Image.Image:
    """Crop the largest square at the center of an image, and resize it to ``side`` pixels."""
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))


def decode_image(split: StoredSplit, index: int, image_size: int) -> ImageArray:
    """Decode one image of a split: uint8 (C, S, S). Raises :class:`core.errors.StorageFailed` if it is damaged.

    A large JPEG of the training split is decoded at a half, quarter or eighth of its size, but never below twice
    ``image_size``. That differs from a full decode by 0.3 of 255 on average, and takes half of its time. Test images
    are decoded in full, as other packages do.
    """
    min_side = _MIN_ENLARGED * image_size if split.name == "train" else None
    pixels = np.asarray(center_square(split.read(index, min_side=min_side), image_size))
    return pixels.reshape(image_size, image_size, -1).transpose(2, 0, 1)


class Images(Protocol):
    """Images (N, C, H, W) uint8: an array, or an object that is indexed like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, C, H, W."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class DecodedOnDemandImages:
    """Images that are indexed like an array (N, C, S, S) and decoded on access. No decoded image is retained.

    An image has the same bits for every kind of access. Not thread-safe; decoding runs in the threads of ``decoder``.
    """

    dtype = np.dtype(np.uint8)
    is_decoded_on_demand = True

    def __init__(self, decoder: Decoder, indices: Indices) -> None:
        self._decoder = decoder
        self._indices = indices

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, C, S, S."""
        size = self._decoder.image_size
        return len(self._indices), self._decoder.channels, size, size

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, key: int | slice | Indices) -> Any:
        """Return one image (C, S, S) for an int, images (B, C, S, S) for an array; a slice decodes nothing."""
        if isinstance(key, slice):
            return DecodedOnDemandImages(self._decoder, self._indices[key])
        indices = self._indices[key]
        return self._decoder.decode(np.atleast_1d(indices)).reshape(*np.shape(indices), *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:  # noqa: FBT001 - numpy's
        """Decode all images. Raises ``ValueError`` for ``copy=False``."""
        if copy is False:
            raise ValueError("images that are decoded on demand are a new array each time")
        images = self._decoder.decode(self._indices)
        return images if dtype is None else images.astype(dtype)

    def prefetch(self, batches: Sequence[Indices]) -> None:
        """Decode the images of these batches in the background, in order. Cancels other pending requests."""
        self._decoder.prefetch([int(index) for positions in batches for index in self._indices[positions]])


def decode_on_demand(folder: Path, split: SplitName, image_size: int, *, threads: int) -> DecodedOnDemandImages:
    """Return a split of the stored dataset in ``folder``, decoded by ``threads`` threads. Raises ``StorageFailed``.

    Opens the dataset itself, so that the caller may close its own.
    """
    decoder = Decoder(StoredDataset.open(folder), split, image_size, threads)
    return DecodedOnDemandImages(decoder, np.arange(decoder.num_samples))


class Decoder:
    """Thread pool that decodes the images of a split, and its pending requests."""

    def __init__(self, stored: StoredDataset, split: SplitName, image_size: int, threads: int) -> None:
        self.image_size = image_size
        self.channels = stored.channels
        self._stored = stored  # a reference, so that the blob stays mapped
        self._split = stored.split(split)
        self.num_samples = len(self._split)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")
        self._pending: dict[int, Future[ImageArray]] = {}

    def decode(self, indices: Indices) -> npt.NDArray[np.uint8]:
        """Return images as a new array (B, C, S, S)."""
        futures = {index: self._pending.get(index) or self._submit(index) for index in map(int, indices)}
        images = np.empty((len(indices), self.channels, self.image_size, self.image_size), np.uint8)
        for row, index in enumerate(indices):
            images[row] = futures[int(index)].result()
        return images

    def prefetch(self, indices: Sequence[int]) -> None:
        """Make these images the pending ones; cancel all others."""
        previous, self._pending = self._pending, {}
        for index in indices:
            if index not in self._pending:
                self._pending[index] = previous.pop(index) if index in previous else self._submit(index)
        for future in previous.values():
            future.cancel()

    def _submit(self, index: int) -> Future[ImageArray]:
        return self._pool.submit(decode_image, self._split, index, self.image_size)
