"""A part of the training split that is kept from training: the same pictures for the same seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from core.data.pixels import Pixels
from core.seeds import derive_seed

MOST_HELD_OUT = 10_000  # enough to tell two models apart that differ by half a percent


def num_held_out(num_samples: int, share: float) -> int:
    """How many of so many pictures are held out: at least one where any are, and never all."""
    if share <= 0:
        return 0
    return min(max(round(share * num_samples), 1), MOST_HELD_OUT, num_samples - 1)


def hold_out(pixels: Pixels, share: float, seed: int) -> tuple[Pixels, Pixels | None]:
    """The pictures to train on and those that are held out, each in the order that they had; None: there are none."""
    count = num_held_out(len(pixels), share)
    if count == 0:
        return pixels, None
    # The raw stream, which numpy keeps stable from version to version, unlike its permutations.
    draws = np.random.Philox(key=derive_seed(seed, "held-out")).random_raw(len(pixels))
    order = np.argsort(np.asarray(draws, dtype=np.uint64), kind="stable")
    return _some(pixels, np.sort(order[count:])), _some(pixels, np.sort(order[:count]))


def _some(pixels: Pixels, chosen: npt.NDArray[np.int64]) -> Pixels:
    places = chosen if pixels.indices is None else pixels.indices[chosen]
    return Pixels(pixels.images, pixels.labels[torch.from_numpy(chosen)], places)
