"""Knowledge review: deep levels of the student are fused into shallow ones, which match the teacher's levels.

Paper: Chen et al. 2021, arXiv:2104.09044. From the deepest level to the first, each level's map is fused with the
output of the next deeper level by a learned attention over positions, brought to the teacher's grid and width, and
compared with the teacher's map on several scales (hierarchical context). The deepest level is the embedding, the
classifier's input, as a map of one position. As in the official code, maps are enlarged by nearest-neighbor
interpolation and the levels' losses are summed. All fusions are dropped at export. Formula and deviations:
:class:`core.spec.methods.review.ReviewParams`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.losses import hierarchical_context
from core.methods.base import Batch, MethodContext, StepInfo, warmup_factor
from core.methods.compatibility import check_batch, embedding_width, pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.review import ReviewParams

_NUM_PAIRS = 4  # as many as a CNN has stages
_MAX_WIDTH = 512
_WARMUP_SHARE = 20 / 240  # of the run

Grid = tuple[int, int]


class Fusion(nn.Module):
    """Attention-based fusion of one level with the deeper levels."""

    def __init__(self, student_width: int, fused_width: int, teacher_width: int, *, is_deepest: bool) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.Conv2d(student_width, fused_width, 1, bias=False), nn.BatchNorm2d(fused_width))
        self.widen = nn.Sequential(
            nn.Conv2d(fused_width, teacher_width, 3, padding=1, bias=False), nn.BatchNorm2d(teacher_width)
        )
        self.attend = None if is_deepest else nn.Sequential(nn.Conv2d(2 * fused_width, 2, 1), nn.Sigmoid())
        for convolution in (self.narrow[0], self.widen[0]):
            assert isinstance(convolution, nn.Conv2d)
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, level: Tensor, deeper: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor]:
        """Return the map to compare with the teacher, on its ``grid``, and the fused map for the next shallower level.

        ``level`` (B, D, H, W) is the student's map, ``deeper`` the fused map of the next deeper level.
        """
        fused = self.narrow(level.float())
        if self.attend is not None:
            assert deeper is not None
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            weights_B2HW = self.attend(torch.cat((fused, deeper), dim=1))
            fused = fused * weights_B2HW[:, :1] + deeper * weights_B2HW[:, 1:]
        if fused.shape[2:] != grid:
            fused = F.interpolate(fused, grid, mode="nearest")
        return self.widen(fused), fused


class Fusions(nn.Module):
    """One fusion per level. ``widths`` are (student, teacher) from the first level to the deepest."""

    def __init__(self, widths: Sequence[tuple[int, int]], fused_width: int) -> None:
        super().__init__()
        self.from_deepest = nn.ModuleList(
            Fusion(student_width, fused_width, teacher_width, is_deepest=index == 0)
            for index, (student_width, teacher_width) in enumerate(widths[::-1])
        )

    def forward(self, maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Sum of the levels' distances. Maps are (B, D, H, W), from the first level to the deepest."""
        distances: list[Tensor] = []
        deeper: Tensor | None = None
        for fusion, level, target in zip(self.from_deepest, maps[::-1], teacher_maps[::-1], strict=True):
            predicted, deeper = fusion(level, deeper, (target.shape[2], target.shape[3]))
            distances.append(hierarchical_context(predicted, target))
        return torch.stack(distances).sum()


class Review(FeatureMethod):
    """Term ``review``, from a chain of fusions from the embedding to the first level."""

    def __init__(self, params: ReviewParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        student, teacher = context.student_structure, context.teacher_structures[0]
        check_batch(context, params.name)
        pairs = pair_levels(student, teacher, params.layers, count=_NUM_PAIRS, method=params.name)
        self.pairs = tuple(sorted(pairs))
        embedding_widths = (
            embedding_width(student, "student", params.name),
            embedding_width(teacher, "teachers/0", params.name),
        )
        widths = [(student.levels[s].width, teacher.levels[t].width) for s, t in self.pairs]
        fused_width = params.width or min(_MAX_WIDTH, embedding_widths[0])
        self.fusions = Fusions([*widths, embedding_widths], fused_width)
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs), embedding=True)
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs), embedding=True)

    def feature_weight(self, info: StepInfo) -> float:
        """Weight of the feature term in a step, with its warm-up."""
        epochs = self.params.warmup_epochs
        return self.params.weight * warmup_factor(info, _WARMUP_SHARE * info.epochs if epochs is None else epochs)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``review``, the sum over the levels."""
        student_maps = _maps(student, [s for s, _ in self.pairs])
        teacher_maps = _maps(teachers[0], [t for _, t in self.pairs])
        return {"review": self.fusions(student_maps, teacher_maps)}


def _maps(outputs: Outputs, levels: Sequence[int]) -> list[Tensor]:
    assert outputs.embedding is not None
    return [*(outputs.levels[level].map for level in levels), outputs.embedding[:, :, None, None]]
