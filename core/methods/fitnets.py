"""FitNets hints: a regressor of the student's features predicts the teacher's at chosen layers.

Paper: Romero et al. 2015, arXiv:1412.6550, eq. 3, in the joint form of later literature (hint and logit terms in one
training), as mean squared error over all entries. Formula and deviations:
:class:`core.spec.methods.fitnets.FitnetsParams`.

Regressors are dropped at export. Shapes: B images, N patch tokens, d and D widths of student and teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.methods.base import Batch, MethodContext
from core.methods.compatibility import check_levels, middle_level, pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.align import TokenProjector, coarser_grid, resample
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.fitnets import FitnetsParams


class ConvolutionalRegressor(nn.Module):
    """1 × 1 convolution, batch norm and ReLU, on tokens: (B, N, d) to (B, N, D)."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.project = TokenProjector(student_width, teacher_width)
        self.norm = nn.BatchNorm1d(teacher_width)

    def forward(self, tokens_BNd: Tensor) -> Tensor:
        """Map tokens to the teacher's width; batch norm statistics are over all positions of the batch."""
        projected_BND = self.project(tokens_BNd)
        normalized: Tensor = self.norm(projected_BND.flatten(0, 1)).view_as(projected_BND)
        return F.relu(normalized)


class Fitnets(FeatureMethod):
    """One regressor per pair of levels."""

    def __init__(self, params: FitnetsParams, context: MethodContext) -> None:
        super().__init__(params, context)
        student, teacher = context.student_structure, context.teacher_structures[0]
        levels = check_levels(student, "student", params.name), check_levels(teacher, "teachers/0", params.name)
        layers = params.layers or [(middle_level(len(levels[0])), middle_level(len(levels[1])))]
        self.pairs = pair_levels(student, teacher, layers, count=len(layers), method=params.name)
        regressor_type = TokenProjector if params.regressor == "linear" else ConvolutionalRegressor
        self.regressors = nn.ModuleList(
            regressor_type(student.levels[s].width, teacher.levels[t].width) for s, t in self.pairs
        )
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``hint``, the mean over the pairs."""
        errors = []
        for (s, t), regressor in zip(self.pairs, self.regressors, strict=True):
            target = teachers[0].levels[t]
            grid = coarser_grid(student.levels[s].grid, target.grid)
            predicted = regressor(resample(student.levels[s], grid).tokens)
            errors.append(F.mse_loss(predicted, resample(target, grid).tokens.float()))
        return {"hint": torch.stack(errors).mean()}
