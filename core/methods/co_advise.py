"""Co-advise: a distillation token for each of several teachers.

Ren et al. 2022, arXiv:2106.12378: cross-entropy of the class head with the labels plus T² · KL of each token's head
with its own teacher, T = 1 and all weights 1. The token of the first teacher is the first. At inference the student
averages its class head with the tokens' heads by itself, so nothing is dropped at export. Deviation: the paper's two
stems are asked for by ``stem``; without them tokens are learned, as in DeiT, and there may be more than two.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from core.errors import SpecCannotRun
from core.losses import kd
from core.methods.base import Batch, Method, MethodContext, StepInfo, invalid_param
from core.models.structure import ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Outputs
from core.spec.methods.co_advise import CoAdviseParams

_STEMS = 2


class CoAdvise(Method):
    """Terms ``label`` and ``teacher_0``, ``teacher_1``, and so on."""

    def __init__(self, params: CoAdviseParams, setting: MethodContext) -> None:
        super().__init__(setting)
        self.params = params
        count = len(setting.teachers)
        self.weights = (1.0,) * count if params.teacher_weights is None else params.teacher_weights
        if len(self.weights) != count:
            detail = f"{len(self.weights)} weights are given for {count} teachers; give one for each"
            raise invalid_param("teacher_weights", detail)

    @classmethod
    def student_variant(
        cls, params: CoAdviseParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant:
        """A ViT with as many distillation tokens as there are teachers."""
        if params.stem == "co_advise" and len(teachers) != _STEMS:
            raise invalid_param(
                "stem",
                f"the paper's two stems make the tokens of two teachers, and there are {len(teachers)}; leave out the "
                "others, or set stem to patch",
            )
        return StudentVariant("flexible", {"distillation_tokens": len(teachers), "stem": params.stem})

    def prepare_student(self, student: nn.Module) -> None:
        """Make the student return the logits of all heads while it trains.

        The switch is a plain attribute, in no state dict. Raises ``SpecCannotRun`` for a student without tokens.
        """
        switch = getattr(student, "set_distilled_training", None)
        if switch is None:
            raise SpecCannotRun(
                f"co_advise needs a student with distillation tokens, {type(student).__name__} has none; choose a ViT "
                "as student, or method kd"
            )
        switch(True)

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], moment: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted."""
        terms = {"label": self.params.label_weight * self.label_loss(student.logits, batch)}
        advice = zip(self.weights, student.token_logits, teachers, strict=True)
        for index, (weight, token, teacher) in enumerate(advice):
            terms[f"teacher_{index}"] = weight * kd(token, teacher.logits, temperature=self.params.temperature)
        return terms
