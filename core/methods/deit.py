"""DeiT: a distillation token's head learns from the teacher, the class token's head from the labels.

Paper: Touvron et al. 2021, arXiv:2012.12877, on timm's distilled ViT. At inference the model itself averages the two
heads' logits, so nothing is dropped at export. Formula and deviations: :class:`core.spec.methods.deit.DeitParams`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from core.losses import token_divergence
from core.methods.base import Batch, Method, MethodContext, StepInfo
from core.methods.compatibility import return_all_logits
from core.models.structure import ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Outputs
from core.spec.methods.deit import DeitParams


class Deit(Method):
    """Terms ``label`` and ``distillation``, from one teacher's decisions or soft labels."""

    def __init__(self, params: DeitParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params

    @classmethod
    def student_variant(
        cls, params: DeitParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant:
        """Timm's distilled ViT with the same arguments."""
        return StudentVariant("distilled")

    def prepare_student(self, student: nn.Module) -> None:
        """Make the student return both heads' logits. Raises ``SpecCannotRun`` for a student without the token."""
        return_all_logits(student, "deit")

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """Terms ``label`` (class head) and ``distillation`` (distillation head), weighted."""
        (token_logits,) = student.token_logits
        divergence = token_divergence(
            token_logits,
            teachers[0].logits,
            distillation_type=self.params.distillation_type,
            temperature=self.params.temperature,
            reduction=self.params.reduction,
        )
        alpha = self.params.alpha
        return {"label": (1 - alpha) * self.label_loss(student.logits, batch), "distillation": alpha * divergence}
