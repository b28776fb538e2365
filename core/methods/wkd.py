"""Wasserstein distillation: probabilities are compared by the cost of moving them between classes.

Paper: Lv et al. 2024, arXiv:2412.08139, its logit loss WKD-L: cross-entropy − t_y log p_y + weight · Wasserstein
distance of the other classes. Costs are 1 − exp(−sharpen · d), where d is 1 − cosine of two rows of the teacher's
classifier, one of the official code's options. The weight falls along half a cosine to 0. Nothing is added to the
student.

Shapes: K classes, D width of the teacher's embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.losses import wasserstein_logits
from core.methods.base import Batch, Method, MethodContext, StepContext, StepInfo, invalid_architecture, invalid_param
from core.spec.methods.wkd import WkdParams

_MAX_CLASSES = 2000  # costs and kernels have K² entries


class Wkd(Method):
    """Terms ``label`` and ``distillation``."""

    uses_cached_outputs = True

    def __init__(self, params: WkdParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        num_classes = context.student.num_classes
        if num_classes > _MAX_CLASSES:
            raise invalid_param(
                "",
                f"wkd compares all pairs of up to {_MAX_CLASSES} classes, and the dataset has {num_classes}; use "
                f"method kd",
            )
        if _classifier(context.teachers[0].module) is None:
            raise invalid_architecture(
                "teachers/0",
                f"wkd reads the weights of a linear classifier, which {context.teachers[0].architecture} does not "
                "have; use another architecture, or method kd",
            )
        self._cost_KK: Tensor | None = None  # of the teacher, whose weights are known from the first step on

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """Both terms, weighted."""
        params, (teacher,) = self.params, step.teacher_outputs(batch)
        if self._cost_KK is None:
            self._cost_KK = class_costs(step.teachers[0].built.module, sharpen=params.sharpen)
        student = step.student(batch.images)
        divergence = wasserstein_logits(
            student.logits,
            teacher.logits,
            batch.labels,
            self._cost_KK,
            temperature=params.temperature,
            weight=params.weight * decay_factor(step.info, params.decay_start),
            regularization=params.regularization,
            iterations=params.iterations,
        )
        return {"label": self.label_loss(student.logits, batch), "distillation": divergence}


@torch.no_grad()
def class_costs(teacher: nn.Module, *, sharpen: float) -> Tensor:
    """Return the costs (K, K) of moving probability between two classes, 0…1, by the rows of the classifier."""
    classifier = _classifier(teacher)
    assert classifier is not None, "checked when the method was built"
    unit_KD = F.normalize(classifier.weight.float(), dim=1)
    return 1 - torch.exp(-sharpen * (1 - unit_KD @ unit_KD.T))


def decay_factor(info: StepInfo, start: float) -> float:
    """Factor that falls along half a cosine from 1 at the fraction ``start`` of the training to 0 at its end."""
    if info.fraction <= start:
        return 1.0
    return (1 + math.cos(math.pi * (info.fraction - start) / (1 - start))) / 2


def _classifier(module: nn.Module) -> nn.Linear | None:
    """Return a network's linear classifier, the class head's if it has several; None if there is none."""
    classifier = getattr(module, "get_classifier", lambda: None)()
    head = classifier[0] if isinstance(classifier, tuple | list | nn.ModuleList) and len(classifier) else classifier
    return head if isinstance(head, nn.Linear) else None
