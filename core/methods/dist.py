"""DIST: student and teacher probabilities correlate, over the classes of a sample and over the samples of a class.

Paper: Huang et al. 2022, arXiv:2205.10536, eq. 10, times T² as in the official code. The defaults are the paper's for
CIFAR-100 (beta 2, gamma 2, T 4), because most datasets here are of that size and their teachers are almost certain at
T 1. For ImageNet the paper has 1, 1, T 1. The second correlation is between samples of a batch and noisy for batches
smaller than 64. Labels are used only by the cross-entropy. Nothing is added to the student.
"""

from __future__ import annotations

from torch import Tensor

from core.losses import dist
from core.methods.base import Batch, MethodContext
from core.methods.logit_base import LogitMethod
from core.spec.methods.dist import DistParams


class Dist(LogitMethod):
    """Terms ``label`` and ``distillation``."""

    def __init__(self, params: DistParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.label_weight, self.distillation_weight = params.label_weight, 1.0
        self.per_sample = params.gamma == 0

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """T² · (beta · (1 − correlation of classes) + gamma · (1 − correlation of samples))."""
        params = self.params
        return dist(student_BC, teacher_BC, beta=params.beta, gamma=params.gamma, temperature=params.temperature)
