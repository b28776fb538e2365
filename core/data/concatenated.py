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
        is_first = rows < len(self._first)
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        for source, selected, start in self._parts(is_first):
            if selected.any():
                images[selected] = source[rows[selected] - start]
        return images

    @property
    def is_decoded_on_demand(self) -> bool:
        """Whether images of either source are decoded on access."""
        return any(isinstance(source, DecodedOnDemandImages) for source in (self._first, self._second))

    def prefetch(self, batches: Sequence[npt.NDArray[np.int64]]) -> None:
        """Announce the rows of the next batches to the sources that decode on access."""
        for index, source in enumerate((self._first, self._second)):
            if isinstance(source, DecodedOnDemandImages):
                parts = [list(self._parts(rows < len(self._first)))[index] for rows in batches]
                source.prefetch(
                    [rows[selected] - start for rows, (_, selected, start) in zip(batches, parts, strict=True)]
                )

    def _parts(self, is_first: npt.NDArray[np.bool_]) -> tuple[tuple[Images, npt.NDArray[np.bool_], int], ...]:
        """Return for each source its images, the selected rows, and the number of its first row."""
        return (self._first, is_first, 0), (self._second, ~is_first, len(self._first))
