"""Lift: the student ends at its teacher's width, also at inference, and matches the teacher's last tokens there.

Paper: arXiv:2511.15572: features of a wide teacher do not fit into a narrow student's channels, and a projector that
is dropped after training hides this. ``lift`` keeps the projector, a linear layer between the final norm and the
classifier; ``wide_last`` gives the last block the teacher's width instead.

Deviations: written from the abstract, as mean squared error over all entries of the tokens after the final norm, in
addition to a logit term and the labels; the weights are not the authors'. Class tokens are compared if both networks
have one, patch tokens on the coarser of the two grids. Nothing is dropped at export.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.methods.base import Batch, MethodContext
from core.methods.compatibility import last_level
from core.methods.feature_base import FeatureMethod
from core.models.align import coarser_grid, resample
from core.models.structure import ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.lift import LiftParams


class Lift(FeatureMethod):
    """One feature term, ``last``."""

    def __init__(self, params: LiftParams, context: MethodContext) -> None:
        super().__init__(params, context)
        student, teacher = context.student_structure, context.teacher_structures[0]
        width = last_level(student, "student", "lift").width
        assert width == last_level(teacher, "teachers/0", "lift").width, "the student is not this method's variant"
        self.with_class_token = _ends_with_class_token(student) and _ends_with_class_token(teacher)
        self.student_taps = self.teacher_taps = FeatureRequest(last=True)

    @classmethod
    def student_variant(
        cls, params: LiftParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant:
        """A ViT that ends at the teacher's width."""
        width = last_level(teachers[0], "teachers/0", "lift").width
        if params.form == "lift":
            return StudentVariant("flexible", {"lift_width": width})
        return StudentVariant("flexible", {"wide_last": width, "wide_last_heads": num_wide_heads(student, width)})

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``last``, the mean squared error of the last tokens."""
        student_last, teacher_last = student.last, teachers[0].last
        assert student_last is not None
        assert teacher_last is not None
        grid = coarser_grid(student_last.grid, teacher_last.grid)
        return {"last": F.mse_loss(self._tokens(student_last, grid), self._tokens(teacher_last, grid).detach())}

    def _tokens(self, feature: Feature, grid: tuple[int, int]) -> Tensor:
        patches = resample(feature, grid).tokens.float()
        if not self.with_class_token:
            return patches
        assert feature.prefix is not None
        return torch.cat((feature.prefix[:, :1].float(), patches), dim=1)


def num_wide_heads(student: ModelStructure, width: int) -> int | None:
    """Number of heads of a block of ``width``, with a head dimension as near to the student's as divisors allow.

    None for a student without attention, which the flexible ViT rejects.
    """
    if not student.attentions:
        return None
    head_dim = student.attentions[0].width // student.attentions[0].heads
    return next(heads for heads in range(max(1, width // head_dim), 0, -1) if width % heads == 0)


def _ends_with_class_token(structure: ModelStructure) -> bool:
    """Whether the class token is the first of the tokens after the final norm."""
    return structure.is_vit and structure.has_class_token and structure.num_prefix_tokens > 0
