"""Paired bootstrap: the interval of the difference between the accuracies of two networks on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

LEVEL = 0.95
NUM_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Difference of two accuracies on the same images, and its interval (fractions). ``low`` ≤ ``high``.

    ``only_first`` and ``only_second`` count the images that just one of the networks classifies correctly.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    num_images: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the report."""
        return {
            "top1": self.difference,
            "interval": [self.low, self.high],
            "level": LEVEL,
            "only_student_correct": self.only_first,
            "only_baseline_correct": self.only_second,
            "num_images": self.num_images,
            "method": f"paired bootstrap over the test images, percentiles of {NUM_RESAMPLES:,} resamples",
            "seed": self.seed,
        }


def paired_difference(is_first_correct_N: Tensor, is_second_correct_N: Tensor, *, seed: int) -> PairedDifference:
    """Return the accuracy of the first network minus that of the second, with its 95 % percentile interval.

    Resamples of the images with replacement (Efron 1979). An image counts 1, 0 or -1, so the counts of a resample
    follow a multinomial distribution, which is drawn directly: the cost does not depend on the number of images. The
    interval holds for other test images, not for other seeds of the training.
    """
    num_images = len(is_first_correct_N)
    only_first = int((is_first_correct_N & ~is_second_correct_N).sum())
    only_second = int((is_second_correct_N & ~is_first_correct_N).sum())
    fractions = np.array([only_first, only_second, num_images - only_first - only_second]) / num_images
    generator = np.random.Generator(np.random.Philox(key=seed))
    counts = generator.multinomial(num_images, fractions, size=NUM_RESAMPLES)
    differences = (counts[:, 0] - counts[:, 1]) / num_images
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return PairedDifference(
        difference=(only_first - only_second) / num_images,
        low=float(low),
        high=float(high),
        only_first=only_first,
        only_second=only_second,
        num_images=num_images,
        seed=seed,
    )
