"""Masked generative distillation: a small network generates the teacher's features from a masked part of the student's.

Paper: Yang et al. 2022, arXiv:2205.01529: the student's map, aligned to the teacher's width if the widths differ, is
masked at random and passed through 3 × 3 convolution, ReLU and 3 × 3 convolution. Formula and deviations:
:class:`core.spec.methods.mgd.MgdParams`.

Maps of a ViT are its patch tokens; both maps are resampled to the coarser of the two grids. Aligners and generators
are dropped at export.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.losses import masked_generation
from core.methods.base import Batch, MethodContext
from core.methods.compatibility import pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.align import coarser_grid, map_generator, resample
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.mgd import MgdParams

_NUM_PAIRS = 1  # the last level


class MaskedGenerator(nn.Module):
    """Generate one map of the teacher from the student's."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        is_aligned = student_width == teacher_width
        self.align = nn.Identity() if is_aligned else nn.Conv2d(student_width, teacher_width, kernel_size=1)
        self.generate = map_generator(teacher_width)

    def forward(self, student_BdHW: Tensor, teacher_BDHW: Tensor, mask: Tensor) -> Tensor:
        """Squared error, mean over all entries; ``mask`` is 1 where the student's map is visible."""
        return masked_generation(
            student_BdHW.float(), teacher_BDHW, self.align, self.generate, mask, alpha=1.0, reduction="mean"
        )


class Mgd(FeatureMethod):
    """One generator per pair of levels."""

    def __init__(self, params: MgdParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        student, teacher = context.student_structure, context.teacher_structures[0]
        self.pairs = pair_levels(student, teacher, params.layers, count=_NUM_PAIRS, method=params.name)
        self.generators = nn.ModuleList(
            MaskedGenerator(student.levels[s].width, teacher.levels[t].width) for s, t in self.pairs
        )
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``generation``, the sum over the pairs."""
        errors = []
        for (s, t), generator in zip(self.pairs, self.generators, strict=True):
            grid = coarser_grid(student.levels[s].grid, teachers[0].levels[t].grid)
            target = resample(teachers[0].levels[t], grid).map
            errors.append(generator(resample(student.levels[s], grid).map, target, self._mask(target)))
        return {"generation": torch.stack(errors).sum()}

    def _mask(self, target_BDHW: Tensor) -> Tensor:
        """Draw a mask per image, 1 where the student's map is visible."""
        batch, channels, rows, columns = target_BDHW.shape
        shape = (batch, channels, 1, 1) if self.params.mask == "channels" else (batch, 1, rows, columns)
        return (torch.rand(shape, device=target_BDHW.device) >= self.params.masked).float()
