"""Methods that compare the student's logits with each teacher's; feature methods add them as a term."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from core.methods.base import Batch, Method, MethodContext, StepInfo, invalid_param
from core.models.taps import Outputs
from core.spec.methods.composition import LogitParams


class LogitMethod(Method):
    """Two terms: ``label``, and ``distillation``, the weighted mean of a distance to each teacher."""

    label_weight: float
    distillation_weight: float

    def __init__(self, params: LogitParams, setting: MethodContext) -> None:
        super().__init__(setting)
        self.shares = _shares(params.teacher_weights, len(setting.teachers))

    @abstractmethod
    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """How far the student's logits are from one teacher's, a scalar."""

    def distillation(self, student_BC: Tensor, teachers: Sequence[Outputs], batch: Batch) -> Tensor:
        """The mean distance to all teachers, each by its share."""
        distances = [self.distance(student_BC, teacher.logits, batch) for teacher in teachers]
        return torch.stack([share * d for share, d in zip(self.shares, distances, strict=True)]).sum()

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], moment: StepInfo) -> dict[str, Tensor]:
        """``label`` and ``distillation``, weighted."""
        return {
            "label": self.label_weight * self.label_loss(student.logits, batch),
            "distillation": self.distillation_weight
            * self.warmup(moment)
            * self.distillation(student.logits, teachers, batch),
        }

    def warmup(self, moment: StepInfo) -> float:
        """The factor of the distillation term at a step, 0…1."""
        return 1.0


def _shares(weights: tuple[float, ...] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1 / max(count, 1),) * count
    if len(weights) != count:
        raise invalid_param(
            "teacher_weights", f"{len(weights)} weights are given for {count} teachers; give one for each"
        )
    return tuple(weight / sum(weights) for weight in weights)
