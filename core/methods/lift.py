"""Lift: the student ends at the width of its teacher, keeps that at inference, and matches the last tokens there.

arXiv:2511.15572: features of a wide teacher do not fit into a narrow student's channels, and a projector that is thrown
away hides that. ``lift`` keeps it, as a linear layer behind the final norm with the classifier on top; ``wide_last``
gives the last block the teacher's width instead. Written from the abstract: mean squared error over all entries of the
tokens behind the final norm, beside a logit term and the labels; the weights are not the authors'. Class tokens are
compared where both networks have one, patch tokens on the coarser of the two grids. Nothing is dropped at export.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.methods.base import Batch, MethodContext, invalid_architecture
from core.methods.feature_base import FeatureMethod
from core.models.align import coarser, resampled
from core.models.structure import FeatureLevel, ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.lift import LiftParams


class Lift(FeatureMethod):
    """One feature term, ``last``."""

    def __init__(self, params: LiftParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        width = _last(mine, "student").width
        assert width == _last(theirs, "teachers/0").width, "the student has not the form that the method gave it"
        self.with_class_token = _ends_with_class_token(mine) and _ends_with_class_token(theirs)
        self.student_taps = self.teacher_taps = FeatureRequest(last=True)

    @classmethod
    def student_variant(
        cls, params: LiftParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant:
        """A student that ends at the teacher's width."""
        width = _last(teachers[0], "teachers/0").width
        if params.form == "lift":
            return StudentVariant("flexible", {"lift_width": width})
        return StudentVariant("flexible", {"wide_last": width, "wide_last_heads": wide_heads(student, width)})

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``last``, the mean squared error of the last tokens."""
        mine, theirs = student.last, teachers[0].last
        assert mine is not None
        assert theirs is not None
        grid = coarser(mine.grid, theirs.grid)
        return {"last": F.mse_loss(self._tokens(mine, grid), self._tokens(theirs, grid).detach())}

    def _tokens(self, feature: Feature, grid: tuple[int, int]) -> Tensor:
        patches = resampled(feature, grid).tokens.float()
        if not self.with_class_token:
            return patches
        assert feature.prefix is not None
        return torch.cat((feature.prefix[:, :1].float(), patches), dim=1)


def wide_heads(student: ModelStructure, width: int) -> int | None:
    """Heads of a block of that width, as near as can be to the student's own size of a head."""
    if not student.attentions:
        return None  # no ViT, which the form itself refuses
    size = student.attentions[0].width // student.attentions[0].heads
    return next(heads for heads in range(max(1, width // size), 0, -1) if width % heads == 0)


def _last(anatomy: ModelStructure, whose: str) -> FeatureLevel:
    if anatomy.last is None:
        raise invalid_architecture(
            whose,
            f"lift compares the last tokens, and timm's {anatomy.architecture} does not give them; use another "
            "architecture, or method kd",
        )
    return anatomy.last


def _ends_with_class_token(anatomy: ModelStructure) -> bool:
    """Whether the class token is the first of the tokens behind the final norm."""
    return anatomy.is_vit and anatomy.has_class_token and anatomy.num_prefix_tokens > 0
