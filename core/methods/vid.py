"""Variational information distillation: the student's features predict the teacher's, with a variance per channel.

Paper: Ahn et al. 2019, arXiv:1904.05835: at each pair of layers, the mean of ½ ((regression − teacher)² / variance +
log variance), summed over the pairs. The regressor has three layers per position, as in the official code; on tokens a
1 × 1 convolution is a linear layer. The variances are trained; a widely used copy of the code leaves them at their
initial values by mistake.

Features are compared on the coarser of the two grids, without prefix tokens. Regressors and variances are dropped at
export. Shapes: B images, N patch tokens, d and D widths of student and teacher.
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
from core.models.align import coarser_grid, resample
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.vid import VidParams

_NUM_PAIRS = 4  # as many as a CNN has stages
_MIN_VARIANCE = 1e-5


class Prediction(nn.Module):
    """Gaussian distribution of the teacher's tokens, given the student's."""

    def __init__(self, student_width: int, teacher_width: int, *, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Linear(student_width, teacher_width, bias=False),
            nn.ReLU(),
            nn.Linear(teacher_width, teacher_width, bias=False),
            nn.ReLU(),
            nn.Linear(teacher_width, teacher_width, bias=False),
        )
        # Inverse of softplus, in a form that does not overflow for large variances.
        start = variance - _MIN_VARIANCE
        self.scale = nn.Parameter(torch.full((teacher_width,), start + math.log(-math.expm1(-start))))

    @property
    def variance(self) -> Tensor:
        """Variance of each channel, (D,)."""
        return F.softplus(self.scale) + _MIN_VARIANCE

    def forward(self, student_BNd: Tensor, teacher_BND: Tensor) -> Tensor:
        """Mean negative log-likelihood of the teacher's tokens, without its constant."""
        error_BND = (self.mean(student_BNd.float()) - teacher_BND.float()).square()
        nll_BND: Tensor = error_BND / self.variance + self.variance.log()
        return nll_BND.mean() / 2


class Vid(FeatureMethod):
    """One prediction per pair of levels."""

    def __init__(self, params: VidParams, context: MethodContext) -> None:
        super().__init__(params, context)
        student, teacher = context.student_structure, context.teacher_structures[0]
        self.pairs = pair_levels(student, teacher, params.layers, count=_NUM_PAIRS, method=params.name)
        self.predictions = nn.ModuleList(
            Prediction(student.levels[s].width, teacher.levels[t].width, variance=params.initial_variance)
            for s, t in self.pairs
        )
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``information``, the sum over the pairs; negative once the teacher is predicted well."""
        losses = []
        for (s, t), prediction in zip(self.pairs, self.predictions, strict=True):
            target = teachers[0].levels[t]
            grid = coarser_grid(student.levels[s].grid, target.grid)
            losses.append(prediction(resample(student.levels[s], grid).tokens, resample(target, grid).tokens))
        return {"information": torch.stack(losses).sum()}
