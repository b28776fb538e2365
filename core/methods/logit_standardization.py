"""Logits of mean 0 and deviation 1 in each sample, in both networks, compared by soft labels or decoupled.

Sun et al. 2024, arXiv:2403.01427, algorithm 1. The defaults are the official ones for CIFAR-100 with base kd (T 2,
weight 9, labels 0.1). With base dkd the official script multiplies alpha by 9, takes beta as 9 times the
product instead of its own 8, and leaves T at 4; here both weights are multiplied alike and T is 2. Base dkd is
warmed up over a twelfth of the training, as dkd itself. Nothing is added to the student.
"""

from __future__ import annotations

from torch import Tensor

from core.losses import decoupled, kd, standardize
from core.methods.base import Batch, MethodContext, StepInfo, warmup_factor
from core.methods.logit_base import LogitMethod
from core.spec.methods.logit_standardization import LogitStandardizationParams

_LABEL_WEIGHTS = {"kd": 0.1, "dkd": 1.0}
_WARMUP = {"kd": 0.0, "dkd": 20 / 240}  # of the training


class LogitStandardization(LogitMethod):
    """A logit loss of standardised logits."""

    def __init__(self, params: LogitStandardizationParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.params = params
        asked = params.label_weight
        self.label_weight = _LABEL_WEIGHTS[params.base] if asked is None else asked
        self.distillation_weight = params.weight

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """The base's distance of both networks' standardised logits."""
        asked = self.params
        student_BC, teacher_BC = standardize(student_BC), standardize(teacher_BC)
        if asked.base == "kd":
            return kd(student_BC, teacher_BC, temperature=asked.temperature)
        return decoupled(
            student_BC, teacher_BC, batch.labels, alpha=asked.alpha, beta=asked.beta, temperature=asked.temperature
        )

    def warmup(self, moment: StepInfo) -> float:
        """Base dkd grows to 1 over a twelfth of the training."""
        return warmup_factor(moment, _WARMUP[self.params.base] * moment.epochs)
