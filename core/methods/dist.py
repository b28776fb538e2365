"""Correlation with the teacher instead of equality: of classes in a sample, and of samples in a class.

Huang et al. 2022, arXiv:2205.10536, eq. 10, times T² as in the official code. The defaults are the paper's for
CIFAR-100 (2, 2, T 4), as most datasets here are of that size and their teachers are nearly certain at T 1;
for ImageNet the paper has 1, 1, T 1. The second term compares samples of one batch: below 64 of
them it is noisy. Labels are used by the cross-entropy alone. Nothing is added to the student.
"""

from __future__ import annotations

from torch import Tensor

from core.losses import dist
from core.methods.base import Batch, MethodContext
from core.methods.logit_base import LogitMethod
from core.spec.methods.dist import DistParams


class Dist(LogitMethod):
    """Distillation from a stronger teacher."""

    def __init__(self, params: DistParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.params = params
        self.label_weight, self.distillation_weight = params.label_weight, 1.0
        self.per_sample = params.gamma == 0

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """T² · (beta · (1 − correlation of classes) + gamma · (1 − correlation of samples))."""
        asked = self.params
        return dist(student_BC, teacher_BC, beta=asked.beta, gamma=asked.gamma, temperature=asked.temperature)
