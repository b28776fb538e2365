"""Normalized distillation: the target class is weighted by the teacher's confidence, the others are normalized to 1.

Paper: Yang et al. 2023, arXiv:2303.13005, in the form of the official code: −p_t[y] log p_s[y] − gamma · T² · Σ p̂_t
log p̂_s over the other classes, plus the labels' cross-entropy. The defaults are the official ones for CNNs on ImageNet
(gamma 1.5, T 1); ViTs were trained with gamma 1. The target class's term is always at T 1. Mixed images count as their
most probable class. Nothing is added to the student.
"""

from __future__ import annotations

from torch import Tensor

from core.losses import normalized
from core.methods.base import Batch, MethodContext
from core.methods.logit_base import LogitMethod
from core.spec.methods.nkd import NkdParams


class Nkd(LogitMethod):
    """Terms ``label`` and ``distillation``."""

    def __init__(self, params: NkdParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.label_weight, self.distillation_weight = params.label_weight, params.weight

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """The target class's term plus gamma · the other classes' term."""
        params = self.params
        return normalized(student_BC, teacher_BC, batch.labels, gamma=params.gamma, temperature=params.temperature)
