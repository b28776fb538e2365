"""TinyViT: the student learns only from the teacher's sparse soft labels, its most probable classes.

Paper: Wu et al. 2022, arXiv:2207.10666: cross-entropy with the K largest probabilities, the remaining mass spread
evenly over the other classes. There are no labels and no temperature, so label smoothing has no effect. The student's
classes are still the dataset's. The paper stores the K probabilities of every view and replays the views; here
``training.views`` sets the views that are replayed, as for every method. The paper's K is 100 of 22 thousand classes.
K is at most one less than the number of classes, which loses nothing.

Deviation: the official code stores probabilities. Here the teacher cache stores the K largest logits and the mean
weight of the rest, in half precision, if that is smaller than all logits; probabilities are computed from them in
float32. Nothing is added to the student.
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
    """Term ``distillation``."""

    def __init__(self, params: TinyvitParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.label_weight, self.distillation_weight = 0.0, 1.0
        num_classes = context.student.num_classes
        if params.top_k is not None and params.top_k >= num_classes:
            raise invalid_param(
                "top_k",
                f"{params.top_k} classes leave none of the {num_classes} for the rest; give at most "
                f"{num_classes - 1}, or leave it out",
            )
        self.top_k: int = params.top_k or min(_TOP_K, num_classes - 1)

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy with the teacher's sparse soft labels."""
        probability_BK, index_BK = torch.softmax(teacher_BC.float(), dim=1).topk(self.top_k, dim=1)
        return sparse_soft_labels(student_BC, index_BK, probability_BK)

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """Only the term ``distillation``."""
        return {"distillation": self.distillation(student.logits, teachers, batch)}
