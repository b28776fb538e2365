"""Knowledge review: deep levels of the student help its shallow ones to match the teacher's.

Chen et al. 2021, arXiv:2104.09044: from the deepest level to the first, each level's map is fused with what
came from the level behind by a learned attention over positions, brought to the teacher's grid and width, and
compared with the teacher's map on several scales (hierarchical context). The deepest level is the embedding
that the classifier reads, a map of one position. As in the official code maps are enlarged by repeating and the
levels' losses are summed. On a ViT maps are patch tokens of the residual stream, without prefix tokens.

The official code takes the teacher's maps before their last activation; here they are what timm gives. All
fusions are dropped at export.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.losses import hierarchical_context
from core.methods.base import Batch, MethodContext
from core.methods.compatibility import check_batch, embedding_width, pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.review import ReviewParams

_PAIRS = 4  # stages of a CNN
_WIDEST = 512

Grid = tuple[int, int]


class Fusion(nn.Module):
    """Attention-based fusion of one level with the ones behind it."""

    def __init__(self, width: int, fused: int, wanted: int, *, is_deepest: bool) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.Conv2d(width, fused, 1, bias=False), nn.BatchNorm2d(fused))
        self.widen = nn.Sequential(nn.Conv2d(fused, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted))
        self.attend = None if is_deepest else nn.Sequential(nn.Conv2d(2 * fused, 2, 1), nn.Sigmoid())
        for convolution in (self.narrow[0], self.widen[0]):
            assert isinstance(convolution, nn.Conv2d)
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, own: Tensor, behind: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor]:
        """What is compared with the teacher, on its grid, and what goes on to the level before."""
        fused = self.narrow(own.float())
        if self.attend is not None:
            assert behind is not None
            behind = F.interpolate(behind, fused.shape[2:], mode="nearest")
            share_B2HW = self.attend(torch.cat((fused, behind), dim=1))
            fused = fused * share_B2HW[:, :1] + behind * share_B2HW[:, 1:]
        if fused.shape[2:] != grid:
            fused = F.interpolate(fused, grid, mode="nearest")
        return self.widen(fused), fused


class Fusions(nn.Module):
    """One fusion a level; widths are (student, teacher) from the first level to the deepest."""

    def __init__(self, widths: Sequence[tuple[int, int]], fused: int) -> None:
        super().__init__()
        self.from_deepest = nn.ModuleList(
            Fusion(width, fused, wanted, is_deepest=place == 0) for place, (width, wanted) in enumerate(widths[::-1])
        )

    def forward(self, maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """The sum of the levels' distances, (B, D, H, W) maps from the first level to the deepest."""
        distances: list[Tensor] = []
        behind: Tensor | None = None
        for fusion, own, guide in zip(self.from_deepest, maps[::-1], teacher_maps[::-1], strict=True):
            guess, behind = fusion(own, behind, (guide.shape[2], guide.shape[3]))
            distances.append(hierarchical_context(guess, guide))
        return torch.stack(distances).sum()


class Review(FeatureMethod):
    """A chain of fusions from the embedding back to the first level."""

    def __init__(self, params: ReviewParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        check_batch(setting, params.name)
        pairs = pair_levels(mine, theirs, params.layers, count=_PAIRS, method=params.name)
        self.pairs = tuple(sorted(pairs))
        ends = (
            embedding_width(mine, "student", params.name),
            embedding_width(theirs, "teachers/0", params.name),
        )
        widths = [(mine.levels[s].width, theirs.levels[t].width) for s, t in self.pairs]
        self.fusions = Fusions([*widths, ends], params.width or min(_WIDEST, ends[0]))
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs), embedding=True)
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs), embedding=True)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``review``, the sum over the levels."""
        mine = _maps(student, [s for s, _ in self.pairs])
        return {"review": self.fusions(mine, _maps(teachers[0], [t for _, t in self.pairs]))}


def _maps(outputs: Outputs, levels: Sequence[int]) -> list[Tensor]:
    assert outputs.embedding is not None
    return [*(outputs.levels[level].map for level in levels), outputs.embedding[:, :, None, None]]
