"""Decoupled distillation: separate weights for target class against the rest, and for the non-target classes.

Paper: Zhao et al. 2022, arXiv:2203.08679, eq. 7: cross-entropy + alpha · TCKD + beta · NCKD, both with T². alpha 1 and
T 4 are the paper's for CIFAR-100, because most datasets here are of that size: a teacher that has memorized its
training images leaves almost no probability to the other classes, and beta and T restore it. The paper has beta 8 for
CIFAR-100, and beta 0.5, T 1 for ImageNet.

Deviations: the official code warms the term up over 20 of 240 epochs; the default here is a twelfth of the training,
counted in steps instead of epochs, and the first step has a weight above 0. Mixed images count as their most probable
class. Nothing is added to the student.
"""

from __future__ import annotations

from torch import Tensor

from core.losses import decoupled
from core.methods.base import Batch, MethodContext, StepInfo, warmup_factor
from core.methods.logit_base import LogitMethod
from core.spec.methods.dkd import DkdParams

_WARMUP_SHARE = 20 / 240  # fraction of the training, in the paper's recipe for CIFAR-100


class Dkd(LogitMethod):
    """Terms ``label`` and ``distillation``."""

    def __init__(self, params: DkdParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.label_weight, self.distillation_weight = params.label_weight, 1.0

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """Return alpha · target-class divergence + beta · divergence among the other classes."""
        params = self.params
        return decoupled(
            student_BC, teacher_BC, batch.labels, alpha=params.alpha, beta=params.beta, temperature=params.temperature
        )

    def warmup(self, info: StepInfo) -> float:
        """Grow to 1 over ``warmup_epochs``, by default over a twelfth of the training."""
        epochs = self.params.warmup_epochs
        return warmup_factor(info, _WARMUP_SHARE * info.epochs if epochs is None else epochs)
