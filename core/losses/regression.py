"""Regression of a teacher's normalized features."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

VARIANCE_FLOOR = 1e-12


def normalized_regression(
    student: Tensor,
    teacher: Tensor,
    *,
    normalization: Literal["layer", "standard"],
    beta: float = 1.0,
    eps: float = 1e-5,
) -> Tensor:
    """VkD: smooth L1 distance to the normalized teacher, mean over all entries (Miles et al. 2024, arXiv:2403.06213).

    Features (..., D) of the same shape, the student's already projected. ``layer``: the teacher through a layer norm
    without parameters, whose epsilon is ``eps``; the student as it is. ``standard``: both standardized per channel over
    all other axes, with the deviation of n − 1; it needs two rows. ``beta`` is the distance at which the square ends.
    """
    if student.ndim < 2 or student.shape != teacher.shape:
        raise ValueError(
            f"features must be (..., D) of the same shape, not {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    width = student.shape[-1]
    student_xD, teacher_xD = student.float(), teacher.detach().float()
    if normalization == "layer":
        return F.smooth_l1_loss(student_xD, F.layer_norm(teacher_xD, (width,), eps=eps), beta=beta)
    if student.numel() < 2 * width:
        raise ValueError(f"standardization over the batch needs two rows or more, not {tuple(student.shape)}")
    standard_student_RD, standard_teacher_RD = (
        _standardized(side.reshape(-1, width)) for side in (student_xD, teacher_xD)
    )
    return F.smooth_l1_loss(standard_student_RD, standard_teacher_RD, beta=beta)


def _standardized(rows_RD: Tensor) -> Tensor:
    variance_D = rows_RD.var(dim=0).clamp_min(VARIANCE_FLOOR)
    return (rows_RD - rows_RD.mean(dim=0)) * variance_D.rsqrt()
