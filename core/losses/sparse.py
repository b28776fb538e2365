"""Sparse soft labels: only the most probable classes are stored (TinyViT, Wu et al. 2022, arXiv:2207.10666)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def dense_soft_labels(index: Tensor, probability: Tensor, *, num_classes: int, clamp: bool = True) -> Tensor:
    """Expand K stored classes, ``index`` and ``probability`` (B, K), to probabilities (B, C).

    The remaining mass is spread evenly over the other classes. Half-precision probabilities can sum to more than 1:
    ``clamp`` then sets the remaining mass to 0; the official code leaves it negative. Raises ``ValueError`` for
    different shapes, or more stored classes than ``num_classes``.
    """
    if index.ndim != 2 or index.shape != probability.shape:
        shapes = f"{tuple(index.shape)} and {tuple(probability.shape)}"
        raise ValueError(f"stored classes and probabilities must be (B, K) of the same shape, not {shapes}")
    num_stored = index.shape[1]
    if num_stored > num_classes:
        raise ValueError(f"{num_stored} stored probabilities do not fit {num_classes} classes")
    stored_BK = probability.detach().float()
    share_B1 = (1 - stored_BK.sum(dim=1, keepdim=True)) / max(num_classes - num_stored, 1)
    if clamp:
        share_B1 = share_B1.clamp_min(0)
    return share_B1.repeat(1, num_classes).scatter(1, index.long(), stored_BK)


def sparse_soft_labels(student: Tensor, index: Tensor, probability: Tensor, *, clamp: bool = True) -> Tensor:
    """Cross-entropy of the student's logits (B, C) with :func:`dense_soft_labels`, mean over B."""
    if student.ndim != 2 or len(index) != len(student):
        raise ValueError(f"stored labels {tuple(index.shape)} do not match logits {tuple(student.shape)}")
    target_BC = dense_soft_labels(index, probability, num_classes=student.shape[1], clamp=clamp)
    return -(target_BC * F.log_softmax(student.float(), dim=1)).sum(dim=1).mean()
