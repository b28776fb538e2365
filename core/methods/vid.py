"""Variational information distillation: the student's features predict the teacher's, with a variance per channel.

Paper: Ahn et al. 2019, arXiv:1904.05835: at each pair of layers, the mean of ½ ((regression − teacher)² / variance +
log variance), summed over the pairs. Formula and deviations: :class:`core.spec.methods.vid.VidParams`.

Regressors and variances are dropped at export. Shapes: B images, N patch tokens, d and D widths of student and teacher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
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
_MIN_START_SHARE = 0.01  # of a measured variance, relative to the mean over channels
_NOT_MEASURED = -1.0


class Prediction(nn.Module):
    """Gaussian distribution of the teacher's tokens, given the student's.

    The variance of a channel is ``unit`` · softplus(``scale``). ``unit`` is 1 where ``variance`` is given. Otherwise it
    is measured on the first batch of all ranks, and the variance starts at it; as a buffer it is in every checkpoint.
    """

    unit: Tensor

    def __init__(self, student_width: int, teacher_width: int, *, variance: float | None) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Linear(student_width, teacher_width, bias=False),
            nn.ReLU(),
            nn.Linear(teacher_width, teacher_width, bias=False),
            nn.ReLU(),
            nn.Linear(teacher_width, teacher_width, bias=False),
        )
        # Inverse of softplus, in a form that does not overflow for large variances.
        start = 1.0 if variance is None else variance - _MIN_VARIANCE
        self.scale = nn.Parameter(torch.full((teacher_width,), start + math.log(-math.expm1(-start))))
        self.register_buffer("unit", torch.full((teacher_width,), _NOT_MEASURED if variance is None else 1.0))
        self._is_measured = variance is not None

    @property
    def variance(self) -> Tensor:
        """Variance of each channel, (D,)."""
        return self.unit * F.softplus(self.scale) + _MIN_VARIANCE

    def forward(self, student_BNd: Tensor, teacher_BND: Tensor) -> Tensor:
        """Mean negative log-likelihood of the teacher's tokens, without its constant."""
        error_BND = (self.mean(student_BNd.float()) - teacher_BND.float()).square()
        self._measure(error_BND.detach())
        variance_D = self.variance
        nll_BND: Tensor = error_BND / variance_D + variance_D.log()
        return nll_BND.mean() / 2

    @torch.no_grad()
    def _measure(self, error_BND: Tensor) -> None:
        """Set ``unit`` to the mean squared error over all ranks, unless it is set or loaded."""
        if self._is_measured:
            return
        # One wait for the device, in the first step of an attempt.
        if bool((self.unit == _NOT_MEASURED).all()):
            sums = torch.cat((error_BND.sum(dim=(0, 1)), error_BND.new_tensor([error_BND[..., 0].numel()])))
            if dist.is_initialized():
                dist.all_reduce(sums)
            mean_D = sums[:-1] / sums[-1]
            # A channel that is constantly zero would otherwise get an infinite weight.
            self.unit.copy_(mean_D.clamp_min((_MIN_START_SHARE * mean_D.mean()).clamp_min(_MIN_VARIANCE)))
        self._is_measured = True


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
