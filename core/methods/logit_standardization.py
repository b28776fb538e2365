"""Logit standardization: kd or dkd of logits that have mean 0 and standard deviation 1 in each sample.

Paper: Sun et al. 2024, arXiv:2403.01427, algorithm 1. The defaults are the official ones for CIFAR-100 with base kd
(T 2, weight 9, labels 0.1).

Deviations: with base dkd the official script multiplies alpha by 9, sets beta to 9 times that product instead of its
own 8, and leaves T at 4; here both weights are multiplied by 9 and T is 2. Base dkd is warmed up over a twelfth of the
training, as in method dkd. Nothing is added to the student.
"""

from __future__ import annotations

from torch import Tensor

from core.losses import decoupled, kd, standardize
from core.methods.base import Batch, MethodContext, StepInfo, warmup_factor
from core.methods.logit_base import LogitMethod
from core.spec.methods.logit_standardization import LogitStandardizationParams

_LABEL_WEIGHTS = {"kd": 0.1, "dkd": 1.0}
_WARMUP_SHARES = {"kd": 0.0, "dkd": 20 / 240}  # fraction of the training


class LogitStandardization(LogitMethod):
    """Terms ``label`` and ``distillation``, a loss of standardized logits."""

    def __init__(self, params: LogitStandardizationParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.label_weight = _LABEL_WEIGHTS[params.base] if params.label_weight is None else params.label_weight
        self.distillation_weight = params.weight

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """The base method's distance between the standardized logits."""
        params = self.params
        student_BC, teacher_BC = standardize(student_BC), standardize(teacher_BC)
        if params.base == "kd":
            return kd(student_BC, teacher_BC, temperature=params.temperature)
        return decoupled(
            student_BC, teacher_BC, batch.labels, alpha=params.alpha, beta=params.beta, temperature=params.temperature
        )

    def warmup(self, info: StepInfo) -> float:
        """Grow to 1 over a twelfth of the training with base dkd; 1 with base kd."""
        return warmup_factor(info, _WARMUP_SHARES[self.params.base] * info.epochs)
