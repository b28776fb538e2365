"""Soft labels: the student matches the teacher's softened class probabilities.

Hinton et al. 2015, arXiv:1503.02531: alpha · T² · KL(teacher ‖ student) + (1 − alpha) · cross-entropy.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.losses import kd
from core.methods.base import Batch, Method, Outputs, Setting
from core.spec.methods.kd import KdParams


class Kd(Method):
    """Knowledge distillation from one teacher's logits."""

    def __init__(self, params: KdParams, setting: Setting) -> None:
        super().__init__(setting)
        self.params = params

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """Two terms, ``label`` and ``distillation``."""
        alpha = self.params.alpha
        divergence = kd(
            student.logits,
            teachers[0].logits,
            temperature=self.params.temperature,
            reduction=self.params.reduction,
        )
        return {"label": (1 - alpha) * self.label_loss(student.logits, batch), "distillation": alpha * divergence}
