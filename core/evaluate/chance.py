"""Accuracy by chance: that of a classifier that does not look at the images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

CONFIDENCE = 1.645  # standard deviations: a guesser exceeds this with a probability of 5 %
_POOR_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class Chance:
    """Accuracies (0…1) of two baselines on ``num_images`` images.

    ``uniform``: guess each class equally often. ``constant``: always predict the most frequent class.
    """

    uniform: float
    constant: float
    num_images: int

    @classmethod
    def from_labels(cls, labels_N: Tensor, num_classes: int) -> Self:
        """Return the baselines on a split with these labels (int64). Raises ``ValueError`` without labels."""
        if len(labels_N) == 0 or int(labels_N.min()) < 0:
            raise ValueError("accuracy by chance needs labeled images")
        largest = int(torch.bincount(labels_N, minlength=num_classes).max())
        return cls(uniform=1 / num_classes, constant=largest / len(labels_N), num_images=len(labels_N))

    @property
    def limit(self) -> float:
        """Highest accuracy that cannot be told from the constant baseline on so few images."""
        return self.constant + CONFIDENCE * math.sqrt(self.constant * (1 - self.constant) / self.num_images)

    def includes(self, top1: float) -> bool:
        """Return whether an accuracy is at or below chance. Always false for a single class, and without an error."""
        return self.constant < 1 and top1 < 1 and top1 <= self.limit

    def is_poor(self, top1: float) -> bool:
        """Return whether an accuracy is at or below chance, or below 1.5 times the uniform baseline."""
        return self.includes(top1) or top1 < min(_POOR_FACTOR * self.uniform, 1.0)


def is_below(top1: float, reference: float, num_images: int) -> bool:
    """Return whether an accuracy on ``num_images`` images is below another one by more than their sampling error."""
    variance = (top1 * (1 - top1) + reference * (1 - reference)) / num_images
    return top1 + CONFIDENCE * math.sqrt(variance) < reference
