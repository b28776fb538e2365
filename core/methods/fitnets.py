"""Hints: a projection of the student's features regresses the teacher's at chosen layers.

Romero et al. 2015, arXiv:1412.6550, eq. 3, in the joint form of later literature (one training, hint and logit
terms together). For tokens the regressor is a linear layer for each pair, on the coarser grid of the two;
prefix tokens are left out. Mean squared error over all entries. ``convolutional`` is the regressor of the CNN
literature, whose output is never negative; unlike grids are averaged there as well, where that literature
strides or pads a larger kernel. Regressors are dropped at export.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.methods.base import Batch, MethodContext
from core.methods.compatibility import pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.align import TokenProjector, coarser, resampled
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.fitnets import FitnetsParams

_PAIRS = 1  # the paper has one hint, in the middle; the last pair serves later layers as well


class ConvolutionalRegressor(nn.Module):
    """1 × 1 convolution, batch norm and ReLU, on tokens: (B, N, d) to (B, N, D)."""

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__()
        self.project = TokenProjector(width, wanted)
        self.norm = nn.BatchNorm1d(wanted)

    def forward(self, tokens_BNd: Tensor) -> Tensor:
        """Statistics are those of all positions of the batch."""
        projected_BND = self.project(tokens_BNd)
        normed: Tensor = self.norm(projected_BND.flatten(0, 1)).view_as(projected_BND)
        return F.relu(normed)


class Fitnets(FeatureMethod):
    """One regressor for each pair of layers."""

    def __init__(self, params: FitnetsParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        self.pairs = pair_levels(mine, theirs, params.layers, count=_PAIRS, method=params.name)
        regressor = TokenProjector if params.regressor == "linear" else ConvolutionalRegressor
        self.regressors = nn.ModuleList(regressor(mine.levels[s].width, theirs.levels[t].width) for s, t in self.pairs)
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``hint``, the mean over the pairs."""
        errors = []
        for (mine, theirs), regressor in zip(self.pairs, self.regressors, strict=True):
            guide = teachers[0].levels[theirs]
            grid = coarser(student.levels[mine].grid, guide.grid)
            guess = regressor(resampled(student.levels[mine], grid).tokens)
            errors.append(F.mse_loss(guess, resampled(guide, grid).tokens.float()))
        return {"hint": torch.stack(errors).mean()}
