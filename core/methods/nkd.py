"""Normalised distillation: the label by the teacher's confidence, and the other classes brought to a sum of 1.

Yang et al. 2023, arXiv:2303.13005, in the form of the official code: −p_t[y] log p_s[y] − gamma · T² · Σ p̂_t
log p̂_s over the other classes, beside the labels' cross-entropy. The defaults are the official ones for
CNNs on ImageNet (gamma 1.5, T 1); ViTs were trained with gamma 1. The label's term stays at T 1, whatever
the temperature. Mixed pictures count for their likelier class. Nothing is added to the student.
"""

from __future__ import annotations

from torch import Tensor

from core.losses import normalized
from core.methods.base import Batch, MethodContext
from core.methods.logit_base import LogitMethod
from core.spec.methods.nkd import NkdParams


class Nkd(LogitMethod):
    """Normalised knowledge distillation."""

    def __init__(self, params: NkdParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.params = params
        self.label_weight, self.distillation_weight = params.label_weight, params.weight

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """The label's term and gamma times that of the others."""
        asked = self.params
        return normalized(student_BC, teacher_BC, batch.labels, gamma=asked.gamma, temperature=asked.temperature)
