"""Base of methods that compare the student's logits with each teacher's. Feature methods use them as a term."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from core.methods.base import Batch, Method, MethodContext, StepInfo, invalid_param
from core.methods.registry import build_method
from core.models.taps import Outputs
from core.spec.methods import METHODS
from core.spec.methods.composition import LogitParams


class LogitMethod(Method):
    """Terms ``label`` (unless its weight is 0) and ``distillation``, the weighted mean of the teachers' distances."""

    label_weight: float
    distillation_weight: float

    def __init__(self, params: LogitParams, context: MethodContext) -> None:
        super().__init__(context)
        self.teacher_weights = _normalized_weights(params.teacher_weights, len(context.teachers))

    @property
    def balanceable(self) -> bool:
        """Whether both terms have a weight."""
        return self.label_weight > 0 and self.distillation_weight > 0

    @abstractmethod
    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """Distance of the student's logits to one teacher's, a scalar."""

    def distillation(self, student_BC: Tensor, teachers: Sequence[Outputs], batch: Batch) -> Tensor:
        """Weighted mean of the distances to all teachers, a scalar."""
        distances = [self.distance(student_BC, teacher.logits, batch) for teacher in teachers]
        weighted = [weight * distance for weight, distance in zip(self.teacher_weights, distances, strict=True)]
        return torch.stack(weighted).sum()

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """``label`` and ``distillation``, weighted."""
        divergence = self.distillation(student.logits, teachers, batch)
        return {
            **self.label_term(self.label_weight, student.logits, batch),
            "distillation": self.distillation_weight * self.warmup(info) * divergence,
        }

    def warmup(self, info: StepInfo) -> float:
        """Warm-up factor of the distillation term at a step, 0…1."""
        return 1.0


def build_logit_term(name: str, context: MethodContext, *, temperature: float | None) -> LogitMethod:
    """Build the logit method ``name`` as a term of another method, with its own defaults except for ``temperature``.

    Raises ``InvalidSpec`` for a temperature that it does not support.
    """
    params_class = METHODS[name].params
    assert issubclass(params_class, LogitParams), f"{name} compares more than logits"
    try:
        given = {} if temperature is None else params_class.temperature_fields(temperature)
    except ValueError as error:
        raise invalid_param("temperature", str(error)) from error
    method = build_method(params_class.model_validate({"name": name, **given}), context)
    assert isinstance(method, LogitMethod), f"{name} compares more than logits"
    return method


def _normalized_weights(weights: tuple[float, ...] | None, num_teachers: int) -> tuple[float, ...]:
    if weights is None:
        return (1 / max(num_teachers, 1),) * num_teachers
    if len(weights) != num_teachers:
        raise invalid_param(
            "teacher_weights", f"{len(weights)} weights are given for {num_teachers} teachers; give one for each"
        )
    return tuple(weight / sum(weights) for weight in weights)
