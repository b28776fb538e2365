"""All rows of one view of one teacher: in memory where they are few, else in the mapped files of the store.

Shapes: N samples, B batch, W numbers of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from core.teacher.store import Rows


class Said(ABC):
    """Rows by sample."""

    @abstractmethod
    def rows(self, indices_B: Tensor) -> Tensor:
        """The rows of samples (int64, on the CPU): float16 (B, W), a copy of its own."""


class Held(Said):
    """Rows in memory."""

    def __init__(self, shards: Sequence[Rows]) -> None:
        self._said_NW = torch.from_numpy(np.concatenate(shards))

    def rows(self, indices_B: Tensor) -> Tensor:
        """The rows of samples."""
        return self._said_NW.index_select(0, indices_B)


class Mapped(Said):
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
