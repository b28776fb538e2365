"""Co-advise: one distillation token for each of several teachers.

Paper: Ren et al. 2022, arXiv:2106.12378: cross-entropy of the class head with the labels plus T² · KL of each token's
head with its own teacher, with T = 1 and all weights 1. The first token belongs to the first teacher.

Deviation: the paper's two stems are selected by ``stem``. Without them the tokens are learned, as in DeiT, and there
may be more than two teachers. At inference the student itself averages the logits of all heads, so nothing is dropped
at export.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from core.losses import kd
from core.methods.base import Batch, Method, MethodContext, StepInfo, invalid_param
from core.methods.compatibility import return_all_logits
from core.models.structure import ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Outputs
from core.spec.methods.co_advise import CoAdviseParams

_NUM_STEMS = 2


class CoAdvise(Method):
    """Terms ``label``, ``teacher_0``, ``teacher_1`` and so on."""

    def __init__(self, params: CoAdviseParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        count = len(context.teachers)
        self.weights = (1.0,) * count if params.teacher_weights is None else params.teacher_weights
        if len(self.weights) != count:
            detail = f"{len(self.weights)} weights are given for {count} teachers; give one for each"
            raise invalid_param("teacher_weights", detail)

    @classmethod
    def student_variant(
        cls, params: CoAdviseParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant:
        """A ViT with one distillation token per teacher."""
        if params.stem == "co_advise" and len(teachers) != _NUM_STEMS:
            raise invalid_param(
                "stem",
                f"the paper's two stems serve two teachers, and there are {len(teachers)}; give two teachers, or set "
                "stem to patch",
            )
        return StudentVariant("flexible", {"distillation_tokens": len(teachers), "stem": params.stem})

    def prepare_student(self, student: nn.Module) -> None:
        """Make the student return the logits of all heads. Raises ``SpecCannotRun`` for a student without tokens."""
        return_all_logits(student, "co_advise", tokens="distillation tokens")

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted."""
        terms = {"label": self.params.label_weight * self.label_loss(student.logits, batch)}
        pairs = zip(self.weights, student.token_logits, teachers, strict=True)
        for index, (weight, token_logits, teacher) in enumerate(pairs):
            divergence = kd(token_logits, teacher.logits, temperature=self.params.temperature)
            terms[f"teacher_{index}"] = weight * divergence
        return terms
