"""Held-out part of the training split: the same images for the same seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from core.data.pixels import Pixels
from core.seeds import derive_seed

MAX_HELD_OUT = 10_000  # enough to distinguish two models that differ by half a percent


def num_held_out(num_samples: int, fraction: float) -> int:
    """Number of held-out images of ``num_samples``: 0 for a fraction of 0, otherwise at least one and never all."""
    if fraction <= 0:
        return 0
    return min(max(round(fraction * num_samples), 1), MAX_HELD_OUT, num_samples - 1)


def hold_out(pixels: Pixels, fraction: float, seed: int) -> tuple[Pixels, Pixels | None]:
    """Split into training and held-out images, in their original order. A fraction of 0 holds out None."""
    count = num_held_out(len(pixels), fraction)
    if count == 0:
        return pixels, None
    # numpy keeps the raw stream stable between versions, unlike its permutations.
    draws = np.random.Philox(key=derive_seed(seed, "held-out")).random_raw(len(pixels))
    order = np.argsort(np.asarray(draws, dtype=np.uint64), kind="stable")
    return _subset(pixels, np.sort(order[count:])), _subset(pixels, np.sort(order[:count]))


def _subset(pixels: Pixels, positions: npt.NDArray[np.int64]) -> Pixels:
    indices = positions if pixels.indices is None else pixels.indices[positions]
    return Pixels(pixels.images, pixels.labels[torch.from_numpy(positions)], indices)
