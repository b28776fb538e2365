"""Divergences between class probabilities softened by a temperature."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from core.losses.shapes import require_logits

Reduction = Literal["sample", "element"]


def kd(student: Tensor, teacher: Tensor, *, temperature: float, reduction: Reduction = "sample") -> Tensor:
    """T² · KL(teacher ‖ student) of the softened probabilities (Hinton et al. 2015, arXiv:1503.02531).

    Both logits (B, C). ``sample`` divides the sum by B as in the paper, ``element`` by B·C as in DeiT's official code.
    The factor T² makes the scale of the gradient independent of the temperature.
    """
    require_logits(student, teacher)
    log_student_BC = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher_BC = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    total = F.kl_div(log_student_BC, log_teacher_BC, reduction="sum", log_target=True) * temperature**2
    return total / (student.numel() if reduction == "element" else student.shape[0])


def cross_entropy_kd(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """T² · mean over the batch of −Σ p_t log p_s: :func:`kd` plus T² · the teacher's entropy, with the same gradient.

    Both logits (B, C). At T = 1 this is the form of MiniViT and TinyViT.
    """
    require_logits(student, teacher)
    log_student_BC = F.log_softmax(student.float() / temperature, dim=1)
    teacher_BC = F.softmax(teacher.detach().float() / temperature, dim=1)
    return -(teacher_BC * log_student_BC).sum(dim=1).mean() * temperature**2


def binary_kd(student: Tensor, teacher: Tensor) -> Tensor:
    """Binary cross-entropy of each student logit with the teacher's softmax, mean over B·C.

    The form that OFA-KD (Hao et al. 2023, arXiv:2310.19444) uses with BCE labels. Both logits (B, C).
    """
    require_logits(student, teacher)
    return F.binary_cross_entropy_with_logits(student.float(), F.softmax(teacher.detach().float(), dim=1))


def transformed_teacher(student: Tensor, teacher: Tensor, *, exponent: float, weighted: bool = True) -> Tensor:
    """WTTM: mean over the batch of U · KL(q ‖ softmax(student)), with q the teacher's probabilities to the power g.

    Zheng and Yang 2024, arXiv:2402.11148; g is ``exponent``, in (0, 1], and q is normalized to a sum of 1. Both logits
    (B, C); the student has no temperature, and there is no factor T². U = Σ p^g is 1 for a certain teacher and at most
    C^(1 − g), so smooth targets have more weight. Without ``weighted``, U is 1 (TTM).
    """
    require_logits(student, teacher)
    teacher_BC = teacher.detach().float()
    log_student_BC = F.log_softmax(student.float(), dim=1)
    log_target_BC = F.log_softmax(exponent * teacher_BC, dim=1)
    divergence_B = F.kl_div(log_student_BC, log_target_BC, reduction="none", log_target=True).sum(dim=1)
    if weighted:
        divergence_B = (exponent * F.log_softmax(teacher_BC, dim=1)).logsumexp(dim=1).exp() * divergence_B
    return divergence_B.mean()
