"""Attention transfer: the student's features are strong at the same positions as the teacher's.

Paper: Zagoruyko and Komodakis 2017, arXiv:1612.03928, eq. 2: at each pair of layers, the squared distance of the maps
of the channels' mean of f^p, scaled to unit length. The larger map is pooled to the grid of the smaller.
``selectivity`` is NST (Huang and Wang 2017, arXiv:1707.01219) on the same pairs. Nothing is added to the student.
Formula and deviations: :class:`core.spec.methods.attention_transfer.AttentionTransferParams`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from core.losses import attention_transfer, neuron_selectivity
from core.methods.base import (
    Batch,
    MethodContext,
    StepInfo,
    invalid_architecture,
    invalid_param,
    warmup_factor,
)
from core.methods.compatibility import Pairs, pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.structure import ModelStructure
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.attention_transfer import AttentionTransferParams

_NUM_PAIRS = 4  # as many as a CNN has stages
_WEIGHTS = {"attention": 20.5, "selectivity": 150.0}  # 1000 · (32⁻² + 16⁻² + 8⁻²), and 3 · 50


class AttentionTransfer(FeatureMethod):
    """One comparison per pair of levels."""

    def __init__(self, params: AttentionTransferParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.pairs = _spatial_pairs(context.student_structure, context.teacher_structures[0], params)
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def feature_weight(self, info: StepInfo) -> float:
        """Weight of the feature term in a step, with its warm-up."""
        params = self.params
        weight = _WEIGHTS[params.statistic] if params.weight is None else params.weight
        return weight * warmup_factor(info, params.warmup_epochs)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``attention`` or ``selectivity``, the mean over the pairs."""
        distances = [self._distance(student.levels[s].map, teachers[0].levels[t].map) for s, t in self.pairs]
        return {self.params.statistic: torch.stack(distances).mean()}

    def _distance(self, student_BDHW: Tensor, teacher_BDHW: Tensor) -> Tensor:
        if self.params.statistic == "selectivity":
            return neuron_selectivity(student_BDHW, teacher_BDHW)
        num_positions = math.prod(map(min, student_BDHW.shape[2:], teacher_BDHW.shape[2:]))
        return num_positions * attention_transfer(student_BDHW, teacher_BDHW, power=self.params.power)


def _spatial_pairs(student: ModelStructure, teacher: ModelStructure, params: AttentionTransferParams) -> Pairs:
    """Pairs of levels that both have more than one position.

    A unit map of one position is constant. A default pair with one is left out; for a requested pair this raises
    ``InvalidSpec``.
    """
    pairs = pair_levels(student, teacher, params.layers, count=_NUM_PAIRS, method=params.name)
    spatial = tuple((s, t) for s, t in pairs if min(student.levels[s].tokens, teacher.levels[t].tokens) > 1)
    if params.layers is not None and spatial != pairs:
        s, t = next(pair for pair in pairs if pair not in spatial)
        raise invalid_param(
            "layers", f"one of the levels {s} and {t} has a single position; choose levels with more positions"
        )
    if not spatial:
        pooled = teacher if all(level.tokens == 1 for level in teacher.levels) else student
        raise invalid_architecture(
            "teachers/0" if pooled is teacher else "student",
            f"the levels of {pooled.architecture} have a single position at this image size; enlarge it",
        )
    return spatial
