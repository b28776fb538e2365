"""Labels alone: the baseline of every report, and how teachers are trained in a job."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.methods.base import Batch, Method, MethodContext, StepInfo
from core.models.taps import Outputs
from core.spec.methods.scratch import ScratchParams


class Scratch(Method):
    """Cross-entropy with the labels. Teachers are ignored."""

    def __init__(self, params: ScratchParams, setting: MethodContext) -> None:
        super().__init__(setting)

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], moment: StepInfo) -> dict[str, Tensor]:
        """One term, ``label``."""
        return {"label": self.label_loss(student.logits, batch)}
