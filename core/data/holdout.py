"""Held-out part of the training split, and other random parts of it: the same images for the same seed."""

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
    order = _random_order(len(pixels), derive_seed(seed, "held-out"))
    return _subset(pixels, np.sort(order[count:])), _subset(pixels, np.sort(order[:count]))


def draw_images(pixels: Pixels, count: int, seed: int) -> Pixels:
    """Draw ``count`` different images, or all if there are fewer, in their original order."""
    return _subset(pixels, np.sort(_random_order(len(pixels), derive_seed(seed, "drawn"))[:count]))


def _random_order(length: int, key: int) -> npt.NDArray[np.int64]:
    # numpy keeps the raw stream stable between versions, unlike its permutations.
    draws = np.random.Philox(key=key).random_raw(length)
    return np.argsort(np.asarray(draws, dtype=np.uint64), kind="stable")


def _subset(pixels: Pixels, positions: npt.NDArray[np.int64]) -> Pixels:
    indices = positions if pixels.indices is None else pixels.indices[positions]
    return Pixels(pixels.images, pixels.labels[torch.from_numpy(positions)], indices)
