"""Divergences between softened class probabilities."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["sample", "element"]


def kd(student: Tensor, teacher: Tensor, *, temperature: float, reduction: Reduction = "sample") -> Tensor:
    """T² · KL(teacher ‖ student) of the softened probabilities (Hinton et al. 2015, arXiv:1503.02531).

    Both logits (B, C). ``sample`` divides the sum by B as the paper does, ``element`` by B·C as DeiT's
    official code does. The factor T² keeps the gradient's size independent of the temperature.
    """
    log_student_BC = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher_BC = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    total = F.kl_div(log_student_BC, log_teacher_BC, reduction="sum", log_target=True) * temperature**2
    return total / (student.numel() if reduction == "element" else student.shape[0])
