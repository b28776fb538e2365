"""Pictures that are decoded when they are asked for, and ahead of that where it is known which come next.

Shapes: N pictures, B of a batch, C channels, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.data.stored import SplitName, StoredDataset, StoredSplit

Picture = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


def square(picture: Image.Image, side: int) -> Image.Image:
    """The largest square at a picture's centre, ``side`` pixels wide."""
    width, height = picture.size
    edge = min(width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    return picture.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))


def decoded(samples: StoredSplit, index: int, image_size: int) -> Picture:
    """One picture of a split: uint8 (C, S, S). Raises :class:`core.errors.StorageFailed` where it is damaged."""
    picture = np.asarray(square(samples.read(index), image_size))
    return picture.reshape(image_size, image_size, -1).transpose(2, 0, 1)


class DecodedOnDemand:
    """Pictures indexed like an array (N, C, S, S) of them, none of which is kept.

    A picture has the same bits however it is asked for. To be used by one thread at a time; others decode.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, decoder: Decoder, places: Places) -> None:
        self._decoder = decoder
        self._places = places

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the array that this stands for."""
        size = self._decoder.image_size
        return len(self._places), self._decoder.channels, size, size

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: int | slice | Places) -> Any:
        """A picture (C, S, S) by its number, pictures (B, C, S, S) by an array; a slice decodes nothing yet."""
        if isinstance(key, slice):
            return DecodedOnDemand(self._decoder, self._places[key])
        places = self._places[key]
        return self._decoder.pictures(np.atleast_1d(places)).reshape(*np.shape(places), *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:  # noqa: FBT001 - numpy's
        """All of them, decoded. Raises ``ValueError`` where no copy may be made."""
        if copy is False:
            raise ValueError("pictures that are decoded on demand are a new array each time")
        pictures = self._decoder.pictures(self._places)
        return pictures if dtype is None else pictures.astype(dtype)

    def expect(self, batches: Sequence[Places]) -> None:
        """Decode these in the background, first ones first, and drop what was expected before and is not among them."""
        self._decoder.expect([int(place) for rows in batches for place in self._places[rows]])


def decode_on_demand(folder: Path, split: SplitName, image_size: int, *, threads: int) -> DecodedOnDemand:
    """A split of the stored dataset in ``folder``, decoded by so many threads. Raises ``StorageFailed``.

    The dataset is opened anew: whoever asks may close theirs.
    """
    decoder = Decoder(StoredDataset.open(folder), split, image_size, threads)
    return DecodedOnDemand(decoder, np.arange(decoder.num_samples))


class Decoder:
    """The threads that decode a split, and the pictures that are on their way."""

    def __init__(self, stored: StoredDataset, split: SplitName, image_size: int, threads: int) -> None:
        self.image_size = image_size
        self.channels = stored.channels
        self._stored = stored  # stays open as long as this lives
        self._samples = stored.split(split)
        self.num_samples = len(self._samples)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")
        self._coming: dict[int, Future[Picture]] = {}

    def pictures(self, places: Places) -> npt.NDArray[np.uint8]:
        """(B, C, S, S), an array of its own."""
        found = {place: self._coming.get(place) or self._begin(place) for place in map(int, places)}
        pictures = np.empty((len(places), self.channels, self.image_size, self.image_size), np.uint8)
        for row, place in enumerate(places):
            pictures[row] = found[int(place)].result()
        return pictures

    def expect(self, places: Sequence[int]) -> None:
        """Have these on their way, and no others."""
        before, self._coming = self._coming, {}
        for place in places:
            if place not in self._coming:
                self._coming[place] = before.pop(place) if place in before else self._begin(place)
        for dropped in before.values():
            dropped.cancel()

    def _begin(self, place: int) -> Future[Picture]:
        return self._pool.submit(decoded, self._samples, place, self.image_size)
