"""Confusion between classes, and disagreement between two networks.

Shapes: N images, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK_SIZE = 4096


class Confusion(NamedTuple):
    """Number of images of the class ``label`` that were classified as another class, ``prediction``."""

    label: int
    prediction: int
    num_images: int


def confusion_matrix(predictions_N: Tensor, labels_N: Tensor, num_classes: int) -> Tensor:
    """Return the number of images by label (row) and prediction (column): int64 (K, K)."""
    pairs_N = labels_N * num_classes + predictions_N
    return torch.bincount(pairs_N, minlength=num_classes**2).reshape(num_classes, num_classes)


def largest_confusions(predictions_N: Tensor, labels_N: Tensor, num_classes: int, limit: int) -> list[Confusion]:
    """Return the most frequent wrong (label, prediction) pairs, in descending order; equal ones by label."""
    is_wrong_N = predictions_N != labels_N
    pairs, counts = torch.unique(labels_N[is_wrong_N] * num_classes + predictions_N[is_wrong_N], return_counts=True)
    order = torch.argsort(counts, descending=True, stable=True)[:limit]
    return [Confusion(*divmod(int(pairs[i]), num_classes), int(counts[i])) for i in order]


def jensen_shannon(first_NK: Tensor, second_NK: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of two networks' class probabilities for each image: (N,), 0…1 bit.

    The mean divergence of both distributions from their mean (Lin 1991). 0: equal; 1: no class in common.
    """
    divergences = []
    for start in range(0, len(first_NK), _CHUNK_SIZE):
        p_NK, q_NK = (x[start : start + _CHUNK_SIZE].double().softmax(dim=1) for x in (first_NK, second_NK))
        m_NK = (p_NK + q_NK) / 2
        terms = torch.special.entr(m_NK).sum(1) - (torch.special.entr(p_NK) + torch.special.entr(q_NK)).sum(1) / 2
        divergences.append(terms.clamp(min=0) / torch.log(torch.tensor(2.0, dtype=torch.float64)))
    return torch.cat(divergences) if divergences else torch.empty(0, dtype=torch.float64)


def most_different(first_NK: Tensor, second_NK: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return the indices and divergences of the images with the largest :func:`jensen_shannon` divergence."""
    divergence_N = jensen_shannon(first_NK, second_NK)
    order = torch.argsort(divergence_N, descending=True, stable=True)[:limit]
    return order, divergence_N[order]


def confidence(logits_NK: Tensor) -> Tensor:
    """Return the highest class probability of each image: (N,) float32."""
    return F.softmax(logits_NK.float(), dim=1).max(dim=1).values
