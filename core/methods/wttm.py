"""Weighted transformed teacher matching: the teacher is softened by an exponent, the student is not.

Paper: Zheng and Yang 2024, arXiv:2402.11148: cross-entropy with the labels + weight · U · KL(q ‖ student), where q are
the teacher's probabilities to the power ``exponent``, normalized, and U is the sum of those powers. ``weighted: false``
is the paper's TTM. The published values for ImageNet are in the paper's appendix, not in its code: tune ``exponent`` in
0.1 … 1, and ``weight`` so that weight · U is 1 to 10. Nothing is added to the student.
"""

from __future__ import annotations

from torch import Tensor

from core.losses import transformed_teacher
from core.methods.base import Batch, MethodContext
from core.methods.logit_base import LogitMethod
from core.spec.methods.wttm import WttmParams


class Wttm(LogitMethod):
    """Terms ``label`` and ``distillation``."""

    def __init__(self, params: WttmParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.label_weight, self.distillation_weight = params.label_weight, params.weight

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """U · KL(q ‖ student), mean over the batch."""
        params = self.params
        return transformed_teacher(student_BC, teacher_BC, exponent=params.exponent, weighted=params.weighted)
