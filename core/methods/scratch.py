"""Training with labels only: the baseline of every report, and the training of teachers within a job."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.methods.base import Batch, Method, MethodContext, StepInfo
from core.models.taps import Outputs
from core.spec.methods.scratch import ScratchParams


class Scratch(Method):
    """Term ``label``, the cross-entropy with the labels. Teachers are ignored."""

    def __init__(self, params: ScratchParams, context: MethodContext) -> None:
        super().__init__(context)

    @property
    def balanceable(self) -> bool:
        """False: there is no other term."""
        return False

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """The term ``label``."""
        return {"label": self.label_loss(student.logits, batch)}
