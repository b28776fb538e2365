"""Knowledge distillation: the student matches the teacher's soft labels.

Paper: Hinton et al. 2015, arXiv:1503.02531: alpha · T² · KL(teacher ‖ student) + (1 − alpha) · cross-entropy.
"""

from __future__ import annotations

from torch import Tensor

from core.losses import kd
from core.methods.base import Batch, MethodContext
from core.methods.logit_base import LogitMethod
from core.spec.methods.kd import KdParams


class Kd(LogitMethod):
    """Terms ``label`` and ``distillation``."""

    def __init__(self, params: KdParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.label_weight, self.distillation_weight = 1 - params.alpha, params.alpha

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """T² · KL(teacher ‖ student)."""
        return kd(student_BC, teacher_BC, temperature=self.params.temperature, reduction=self.params.reduction)
