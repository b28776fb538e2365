"""Masked generation: the teacher's features come out of a part of the student's.

Yang et al. 2022, arXiv:2205.01529: the student's map, aligned to the teacher's width where the widths differ,
is masked at random and goes through 3 × 3 convolution, ReLU and 3 × 3 convolution; the squared error is summed
over all entries and divided by the batch size. As in the official code for classification, whole channels are
masked (the paper masks positions: ``mask``). Maps of a ViT are its patch tokens; both maps are brought to the
coarser grid of the two. The error of several pairs is summed. A sum depends on the size of the map, so its
weight does not transfer between widths and resolutions. Aligners and generators are dropped at export.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.losses import masked_generation
from core.methods.base import Batch, MethodContext
from core.methods.compatibility import pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.align import coarser, map_generator, resampled
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.mgd import MgdParams

_PAIRS = 1  # the last


class MaskedGenerator(nn.Module):
    """Generates one map of the teacher."""

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__()
        self.align = nn.Identity() if width == wanted else nn.Conv2d(width, wanted, kernel_size=1)
        self.generate = map_generator(wanted)

    def forward(self, student_BdHW: Tensor, teacher_BDHW: Tensor, mask: Tensor) -> Tensor:
        """The squared error, summed over all but the batch; ``mask`` is 1 where the student's map is kept."""
        return masked_generation(student_BdHW.float(), teacher_BDHW, self.align, self.generate, mask, alpha=1.0)


class Mgd(FeatureMethod):
    """One generator for each pair of layers."""

    def __init__(self, params: MgdParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.params = params
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        self.pairs = pair_levels(mine, theirs, params.layers, count=_PAIRS, method=params.name)
        self.generators = nn.ModuleList(
            MaskedGenerator(mine.levels[s].width, theirs.levels[t].width) for s, t in self.pairs
        )
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``generation``, the sum over the pairs."""
        errors = []
        for (mine, theirs), generator in zip(self.pairs, self.generators, strict=True):
            guide = teachers[0].levels[theirs]
            grid = coarser(student.levels[mine].grid, guide.grid)
            target = resampled(guide, grid).map
            errors.append(generator(resampled(student.levels[mine], grid).map, target, self._mask(target)))
        return {"generation": torch.stack(errors).sum()}

    def _mask(self, target_BDHW: Tensor) -> Tensor:
        """1 where the student's map is kept, drawn for each picture."""
        batch, channels, rows, columns = target_BDHW.shape
        shape = (batch, channels, 1, 1) if self.params.mask == "channels" else (batch, 1, rows, columns)
        return (torch.rand(shape, device=target_BDHW.device) >= self.params.masked).float()
