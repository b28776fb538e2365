"""Variational information: the student's features predict the teacher's, each channel with its own variance.

Ahn et al. 2019, arXiv:1904.05835: at each pair of layers, the mean of ½ ((regression − teacher)² / variance +
log variance), summed over the pairs. The regressor is three layers on each position, as in the official code;
on tokens a 1 × 1 convolution is a linear layer. Features are compared on the coarser grid of the two, prefix
tokens are left out. The variances are trained: a copy of the code that is often used leaves them at their start
by mistake. Regressors and variances are dropped at export.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.methods.base import Batch, MethodContext
from core.methods.compatibility import pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.align import coarser, resampled
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.vid import VidParams

_PAIRS = 4  # stages of a CNN
_LEAST_VARIANCE = 1e-5


class Prediction(nn.Module):
    """A distribution of the teacher's tokens, given the student's."""

    def __init__(self, width: int, wanted: int, *, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Linear(width, wanted, bias=False),
            nn.ReLU(),
            nn.Linear(wanted, wanted, bias=False),
            nn.ReLU(),
            nn.Linear(wanted, wanted, bias=False),
        )
        # softplus of it is the variance; expm1 would overflow for large ones
        start = variance - _LEAST_VARIANCE
        self.scale = nn.Parameter(torch.full((wanted,), start + math.log(-math.expm1(-start))))

    @property
    def variance(self) -> Tensor:
        """One for each channel."""
        return F.softplus(self.scale) + _LEAST_VARIANCE

    def forward(self, student_BNd: Tensor, teacher_BND: Tensor) -> Tensor:
        """The mean negative log likelihood of the teacher's tokens, without its constant."""
        error_BND = (self.mean(student_BNd.float()) - teacher_BND.float()).square()
        surprise_BND: Tensor = error_BND / self.variance + self.variance.log()
        return surprise_BND.mean() / 2


class Vid(FeatureMethod):
    """One prediction for each pair of layers."""

    def __init__(self, params: VidParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        self.pairs = pair_levels(mine, theirs, params.layers, count=_PAIRS, method=params.name)
        self.predictions = nn.ModuleList(
            Prediction(mine.levels[s].width, theirs.levels[t].width, variance=params.initial_variance)
            for s, t in self.pairs
        )
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``information``, the sum over the pairs; below 0 once the teacher is predicted well."""
        surprises = []
        for (mine, theirs), prediction in zip(self.pairs, self.predictions, strict=True):
            guide = teachers[0].levels[theirs]
            grid = coarser(student.levels[mine].grid, guide.grid)
            surprises.append(prediction(resampled(student.levels[mine], grid).tokens, resampled(guide, grid).tokens))
        return {"information": torch.stack(surprises).sum()}
