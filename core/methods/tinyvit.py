"""Sparse soft labels: the teacher's likeliest classes, and nothing but the teacher.

Wu et al. 2022, arXiv:2207.10666: cross-entropy with the K largest probabilities, the rest of the mass spread evenly
over the other classes. No labels and no temperature, so label smoothing has no effect either. The classes are those
of the dataset all the same: they make the student's head. The paper stores the K probabilities of every view and
replays the views; which views are seen again is training.views, as with every method. Its K is 100 of 22 thousand
classes; K is at most one less than the classes here, which keeps everything. Probabilities are taken in float32
from the K largest logits and the mean weight of the rest, stored in half precision where that takes less room than all
logits; the official code stores probabilities. Nothing is added to the student.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.losses import sparse_soft_labels
from core.methods.base import Batch, MethodContext, StepInfo, invalid_param
from core.methods.logit_base import LogitMethod
from core.models.taps import Outputs
from core.spec.methods.tinyvit import TinyvitParams

_TOP_K = 100


class Tinyvit(LogitMethod):
    """One term, ``distillation``."""

    def __init__(self, params: TinyvitParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.label_weight, self.distillation_weight = 0.0, 1.0
        num_classes = setting.student.num_classes
        if params.top_k is not None and params.top_k >= num_classes:
            raise invalid_param(
                "top_k",
                f"{params.top_k} classes cannot be told apart from the rest of {num_classes}; give at most "
                f"{num_classes - 1}, or leave it out",
            )
        self.top_k: int = params.top_k or min(_TOP_K, num_classes - 1)

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy with the teacher's sparse soft labels."""
        probability_BK, index_BK = torch.softmax(teacher_BC.float(), dim=1).topk(self.top_k, dim=1)
        return sparse_soft_labels(student_BC, index_BK, probability_BK)

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], moment: StepInfo) -> dict[str, Tensor]:
        """The teachers' term alone."""
        return {"distillation": self.distillation(student.logits, teachers, batch)}
