"""Decoupled distillation: the label's class against the rest, and the rest among themselves, weighted apart.

Zhao et al. 2022, arXiv:2203.08679, eq. 7: cross-entropy + alpha · TCKD + beta · NCKD, both with T². The
defaults are the paper's for CIFAR-100 (alpha 1, beta 8, T 4), as most datasets here are of that size: a
teacher that knows its training images by heart leaves next to nothing to the other classes, and beta and T
bring it back. For ImageNet the paper has beta 0.5, T 1. The official code warms the term up over 20 of 240 epochs,
here over a twelfth of the training; steps count, not whole epochs, and the first one is not lost. Mixed
pictures count for their likelier class. Nothing is added to the student.
"""

from __future__ import annotations

from torch import Tensor

from core.losses import decoupled
from core.methods.base import Batch, MethodContext, StepInfo, warmup_factor
from core.methods.logit_base import LogitMethod
from core.spec.methods.dkd import DkdParams

_WARMUP = 20 / 240  # of the training, in the paper's recipe for CIFAR-100


class Dkd(LogitMethod):
    """Decoupled knowledge distillation."""

    def __init__(self, params: DkdParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.params = params
        self.label_weight, self.distillation_weight = params.label_weight, 1.0

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """The divergence in the label's class times alpha, and that among the others times beta."""
        asked = self.params
        return decoupled(
            student_BC, teacher_BC, batch.labels, alpha=asked.alpha, beta=asked.beta, temperature=asked.temperature
        )

    def warmup(self, moment: StepInfo) -> float:
        """Grows to 1 over the epochs asked for, or over a twelfth of the training."""
        asked = self.params.warmup_epochs
        return warmup_factor(moment, _WARMUP * moment.epochs if asked is None else asked)
