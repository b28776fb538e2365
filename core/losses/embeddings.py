"""Losses of embeddings and patch features in the teacher's space, and the choice of teachers for each image."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MatchReduction = Literal["mean", "sample"]


def embedding_match(
    student: Tensor,
    teacher: Tensor,
    *,
    cosine_weight: float,
    smooth_l1_weight: float,
    beta: float = 1.0,
    reduction: MatchReduction = "mean",
) -> Tensor:
    """``cosine_weight`` · (1 − cosine) + ``smooth_l1_weight`` · smooth L1 with threshold ``beta``.

    Embeddings (B, D), or tokens (B, N, D) of the same shape. Cosine and smooth L1 are means over tokens, the latter
    also over channels. ``mean`` returns their mean over the batch, ``sample`` the value of each sample, (B,).
    UNIC has both weights 0.5 (Sariyildiz et al. 2024, arXiv:2408.05088), AM-RADIO 0.9 and 0.1 (arXiv:2312.06709).
    """
    if student.shape != teacher.shape or student.ndim not in {2, 3}:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"embeddings must be (B, D) or (B, N, D) of the same shape, not {shapes}")
    student, teacher = student.float(), teacher.detach().float()
    distance = 1 - F.cosine_similarity(student, teacher, dim=-1, eps=1e-8)
    difference = F.smooth_l1_loss(student, teacher, beta=beta, reduction="none").mean(dim=-1)
    loss = cosine_weight * distance + smooth_l1_weight * difference  # (B,) of embeddings, (B, N) of tokens
    loss_B = loss if loss.ndim == 1 else loss.mean(dim=1)
    return loss_B if reduction == "sample" else loss_B.mean()


@torch.no_grad()
def drop_teachers(losses: Tensor, draws: Tensor, *, probability: float) -> Tensor:
    """UNIC's teacher dropping: weights (T, B) with a sum of 1 for the losses of T teachers on B samples, (T, B).

    The teacher with the largest loss on a sample stays. Each other teacher is dropped if its entry of ``draws``
    (T, B), uniform in 0…1, is below ``probability``. All remaining pairs have the same weight, so a sample with more
    remaining teachers weighs more, as in the official code (Sariyildiz et al. 2024, arXiv:2408.05088).
    """
    if losses.ndim != 2 or losses.shape != draws.shape:
        shapes = f"{tuple(losses.shape)} and {tuple(draws.shape)}"
        raise ValueError(f"losses and draws must be (T, B) of the same shape, not {shapes}")
    is_kept = draws >= probability
    is_kept.scatter_(0, losses.detach().argmax(dim=0, keepdim=True), value=True)
    weights = is_kept.float()
    return weights / weights.sum()
