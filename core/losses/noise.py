"""Attention Probe's noise adaptation, for labels of an imperfect teacher (Wang et al. 2022, ICASSP).

Row i of the noise matrix Q is the distribution of the teacher's predictions for images of class i. ``free`` (C, C − 1)
are its trainable logits off the diagonal; the diagonal is the teacher's accuracy.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses.shapes import require_logits


def noise_matrix(free: Tensor, *, teacher_accuracy: float) -> Tensor:
    """Return Q (C, C): softmax of each row of ``free`` times 1 − accuracy, with the accuracy on the diagonal."""
    return _log_noise(free, teacher_accuracy=teacher_accuracy).exp()


def noise_adaptation(student: Tensor, teacher: Tensor, free: Tensor, *, teacher_accuracy: float) -> Tensor:
    """−log of (softmax(student) Q) at the teacher's predicted class, mean over the batch. Logits (B, C)."""
    require_logits(student, teacher)
    if len(free) != student.shape[1]:
        raise ValueError(f"a noise matrix of {len(free)} classes does not fit {student.shape[1]} logits")
    predicted_B = teacher.detach().argmax(dim=1)
    log_student_BC = F.log_softmax(student.float(), dim=1)
    log_noise_BC = _log_noise(free, teacher_accuracy=teacher_accuracy).T[predicted_B]
    return -(log_student_BC + log_noise_BC).logsumexp(dim=1).mean()


def _log_noise(free: Tensor, *, teacher_accuracy: float) -> Tensor:
    """Logarithm of Q, (C, C), which stays finite where Q itself would round to 0."""
    num_classes = len(free)
    if free.ndim != 2 or free.shape[1] != num_classes - 1 or num_classes < 2:
        raise ValueError(f"free must be (C, C − 1) with two or more classes, not {tuple(free.shape)}")
    if not 0 < teacher_accuracy < 1:
        raise ValueError(f"teacher_accuracy must lie between 0 and 1, not {teacher_accuracy}")
    log_off_CO = F.log_softmax(free.float(), dim=1) + math.log1p(-teacher_accuracy)
    row_C1 = torch.arange(num_classes, device=free.device).unsqueeze(1)
    column_1C = row_C1.T
    index_CC = (column_1C - (column_1C > row_C1).long()).clamp_max(num_classes - 2)
    return log_off_CO.gather(1, index_CC).masked_fill(row_C1 == column_1C, math.log(teacher_accuracy))
