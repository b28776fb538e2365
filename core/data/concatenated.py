"""Two sets of decoded images as one: a labeled split, followed by images without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.decoding import DecodedOnDemandImages, Images


class ConcatenatedImages:
    """Images (N + M, C, H, W) uint8 of two sources; those of the second one follow those of the first.

    It is indexed by an array of rows, as ``Pixels`` does.
    """

    def __init__(self, first: Images, second: Images) -> None:
        assert first.shape[1:] == second.shape[1:], "both have the same channels and size"
        self._first, self._second = first, second

    @property
    def shape(self) -> tuple[int, ...]:
        """N + M, C, H, W."""
        return (len(self), *self._first.shape[1:])

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Any:
        """Return a copy of the images at ``rows`` (B,)."""
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        for source, selected, own_rows in self._divide(rows):
            if len(own_rows):
                images[selected] = source[own_rows]
        return images

    @property
    def is_decoded_on_demand(self) -> bool:
        """Whether images of either source are decoded on access."""
        return any(isinstance(source, DecodedOnDemandImages) for source in (self._first, self._second))

    def prefetch(self, batches: Sequence[npt.NDArray[np.int64]]) -> None:
        """Announce the rows of the next batches to the sources that decode on access."""
        for index, source in enumerate((self._first, self._second)):
            if isinstance(source, DecodedOnDemandImages):
                source.prefetch([self._divide(rows)[index][2] for rows in batches])

    def _divide(
        self, rows: npt.NDArray[np.int64]
    ) -> tuple[tuple[Images, npt.NDArray[np.bool_], npt.NDArray[np.int64]], ...]:
        """Return each source, which of ``rows`` it has, and their positions in it."""
        is_first, start = rows < len(self._first), len(self._first)
        return (self._first, is_first, rows[is_first]), (self._second, ~is_first, rows[~is_first] - start)
