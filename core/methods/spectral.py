"""SpectralKD: the spectra of the first and last layers' maps match the teacher's.

Paper: Tian et al. 2024, arXiv:2412.19055: (1 − alpha) · labels + alpha · T² · KL + weight · the mean over pairs of
layers of the squared difference of their spectra. Layers are outputs of blocks or stages without the final norm and
without prefix tokens; for CaiT the blocks of patches alone. A wider teacher's channels are averaged to the student's
number. Nothing is added to the student. The published results take 400 to 500 epochs without mixing of images.

By Parseval's theorem the term is nearly half the squared error of the maps: only the columns of the frequencies 0 and
W / 2 weigh double, because the transform of a real map is stored by half. The choice of layers and the averaged
channels are as much of the method as its transform.

Deviations: different grids are resampled to the coarser one, and a student wider than its teacher has its own channels
averaged, where the official code fails.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses import spectral, token_divergence
from core.methods.base import Batch, Method, MethodContext, StepInfo
from core.methods.compatibility import Pairs, pair_levels
from core.models.align import coarser_grid, resample
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.spectral import SpectralParams

_MAX_FIRST, _MAX_LAST = 2, 6  # of 12 and 24 blocks, as in the paper


class Spectral(Method):
    """Terms ``label``, ``distillation`` and ``spectral``."""

    def __init__(self, params: SpectralParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        student, teacher = context.student_structure, context.teacher_structures[0]
        layers = params.layers or end_pairs(len(student.levels), len(teacher.levels))
        self.pairs = pair_levels(student, teacher, layers, count=len(layers), method=params.name)
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted."""
        params, (teacher,) = self.params, teachers
        divergence = token_divergence(
            student.logits,
            teacher.logits,
            distillation_type=params.distillation_type,
            temperature=params.temperature,
            reduction="sample",
        )
        differences = [_difference(student.levels[s], teacher.levels[t]) for s, t in self.pairs]
        return {
            **self.label_term(1 - params.alpha, student.logits, batch),
            "distillation": params.alpha * divergence,
            "spectral": params.weight * torch.stack(differences).mean(),
        }


def end_pairs(student_depth: int, teacher_depth: int) -> Pairs:
    """Pair the first levels of both networks, and the last.

    Depths 12 and 24 give 0 and 1 with 0 and 1, and 6 to 11 with 18 to 23; two networks of four stages give all four.
    """
    shallower = min(student_depth, teacher_depth)
    num_first = min(_MAX_FIRST, shallower // 4)
    num_last = min(_MAX_LAST, shallower - num_first)
    first = [(index, index) for index in range(num_first)]
    last = [(student_depth - offset, teacher_depth - offset) for offset in range(num_last, 0, -1)]
    return (*first, *last)


def _difference(student: Feature, teacher: Feature) -> Tensor:
    grid = coarser_grid(student.grid, teacher.grid)
    source, target = resample(student, grid), resample(teacher, grid)
    width = target.tokens.shape[2]
    if source.tokens.shape[2] > width:
        source = Feature(F.adaptive_avg_pool1d(source.tokens.float(), width), grid)
    return spectral(source.map, target.map)
