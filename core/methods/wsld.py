"""Weighted soft labels: soft labels count less for samples whose label the student predicts well.

Paper: Zhou et al. 2021, arXiv:2102.00650, eq. 10: the soft label of a sample has the weight 1 − exp(−CE_s / CE_t),
without gradient. The defaults are the paper's for CIFAR-100 (alpha 2.25, T 4), because most datasets here are of that
size; for ImageNet the paper has 2.5 and T 2. A teacher that has memorized its training images (CE_t near 0) gives every
sample a weight of 1, which equals kd up to a factor. Mixed images count as their most probable class. Nothing is added
to the student.
"""

from __future__ import annotations

from torch import Tensor

from core.losses import weighted_soft_labels
from core.methods.base import Batch, MethodContext
from core.methods.logit_base import LogitMethod
from core.spec.methods.wsld import WsldParams


class Wsld(LogitMethod):
    """Terms ``label`` and ``distillation``."""

    def __init__(self, params: WsldParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.label_weight, self.distillation_weight = params.label_weight, params.alpha

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """T² · weighted mean of the cross-entropies with the soft labels."""
        return weighted_soft_labels(
            student_BC, teacher_BC, batch.labels, alpha=1.0, temperature=self.params.temperature
        )
