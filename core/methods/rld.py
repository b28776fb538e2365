"""Refined logits: the teacher's confidence, and the classes below the label, without the teacher's errors.

Paper: Sun et al. 2024, arXiv:2408.07703: cross-entropy + alpha · SCD + beta · MCD, see :func:`core.losses.refined`.
Both terms grow linearly over the first epochs, as in the official code. Mixed images count as their most probable
class. Nothing is added to the student.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.losses import refined
from core.methods.base import Batch, Method, MethodContext, StepInfo, warmup_factor
from core.models.taps import Outputs
from core.spec.methods.rld import RldParams


class Rld(Method):
    """Terms ``label`` and ``distillation``."""

    def __init__(self, params: RldParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """Both terms, weighted."""
        params, (teacher,) = self.params, teachers
        divergence = refined(
            student.logits,
            teacher.logits,
            batch.labels,
            alpha=params.alpha,
            beta=params.beta,
            temperature=params.temperature,
            alpha_temperature=params.alpha_temperature,
            standardized=params.standardized,
        )
        factor = warmup_factor(info, params.warmup_epochs)
        return {"label": self.label_loss(student.logits, batch), "distillation": factor * divergence}
