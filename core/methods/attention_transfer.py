"""Attention transfer: the student's features are strong where the teacher's are.

Zagoruyko and Komodakis 2017, arXiv:1612.03928, eq. 2: at each pair of layers, the unit map of the channels'
mean of f^p. As in the code of the CNN literature the distance is squared, a mean over positions, and summed
over the pairs; the larger map is pooled to the grid of the smaller. On a ViT the map is that of the patch
tokens of the residual stream; prefix tokens have no place in it and are left out. ``selectivity`` is NST (Huang
and Wang 2017, arXiv:1707.01219) on the same pairs. Nothing is added to the student.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.losses import attention_transfer, neuron_selectivity
from core.methods.base import Batch, MethodContext, invalid_architecture, invalid_param
from core.methods.compatibility import Pairs, pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.structure import ModelStructure
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.attention_transfer import AttentionTransferParams

_PAIRS = 4  # stages of a CNN


class AttentionTransfer(FeatureMethod):
    """One comparison for each pair of layers."""

    def __init__(self, params: AttentionTransferParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.params = params
        self.pairs = _with_places(setting.student_structure, setting.teacher_structures[0], params)
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``attention`` or ``selectivity``, the sum over the pairs."""
        distances = [self._distance(student.levels[s].map, teachers[0].levels[t].map) for s, t in self.pairs]
        return {self.params.statistic: torch.stack(distances).sum()}

    def _distance(self, student_BDHW: Tensor, teacher_BDHW: Tensor) -> Tensor:
        if self.params.statistic == "selectivity":
            return neuron_selectivity(student_BDHW, teacher_BDHW)
        return attention_transfer(student_BDHW, teacher_BDHW, power=self.params.power)


def _with_places(student: ModelStructure, teacher: ModelStructure, params: AttentionTransferParams) -> Pairs:
    """The pairs of levels; a map of one position says nothing, and is left out or, where it was asked for, refused."""
    pairs = pair_levels(student, teacher, params.layers, count=_PAIRS, method=params.name)
    telling = tuple((s, t) for s, t in pairs if min(student.levels[s].tokens, teacher.levels[t].tokens) > 1)
    if params.layers is not None and telling != pairs:
        s, t = next(pair for pair in pairs if pair not in telling)
        raise invalid_param(
            "layers", f"one of the levels {s} and {t} has a single position; choose levels with more of them"
        )
    if not telling:
        alone = teacher if all(level.tokens == 1 for level in teacher.levels) else student
        whose = "teachers/0" if alone is teacher else "student"
        raise invalid_architecture(
            whose, f"the levels of {alone.architecture} have a single position at this size; enlarge it"
        )
    return telling
