"""Patch manifolds: the cosines between the student's tokens match those between the teacher's.

Hao et al. 2022, arXiv:2107.01378, eq. 6 to 10: Gram matrices of unit tokens among the patches of an image, among
the images at a patch, and among tokens drawn from the batch, as mean squared differences, the mean over pairs
of blocks. As in the authors' code, blocks are read before the final norm, and their recipe sums these terms with
soft labels at temperature 1 and leaves out the ground truth. Deviation: class, distillation and register tokens are
cut on both sides by their own counts; the authors' code cuts the difference of the two, which keeps class tokens in
the manifolds where both have one and goes wrong silently where the teacher has more. Nothing is trained beside the
student, so nothing is dropped at export.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.losses import manifold
from core.methods.base import Batch, MethodContext, invalid_architecture, invalid_param
from core.methods.compatibility import Pairs, grid_hint, pair_levels
from core.methods.feature_base import FeatureMethod
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.manifold import ManifoldParams

_NUM_RANDOM = 192
_BLOCKS_AT_EACH_END = 4  # of 12 and of 24 blocks, as in the authors' recipe; fewer of a shallower network


class Manifold(FeatureMethod):
    """Gram matrices of the first and of the last blocks."""

    def __init__(self, params: ManifoldParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        layers = params.layers or both_ends(len(mine.levels), len(theirs.levels))
        self.pairs = pair_levels(mine, theirs, layers, count=len(layers), method=params.name)
        self.per_sample = self.per_sample and params.sample_weight == params.random_weight == 0
        self.weights = {"patch": params.patch_weight, "sample": params.sample_weight, "random": params.random_weight}
        for s, t in self.pairs:
            _check_grids(setting, s, t)
        _check_draws(params, setting, max(mine.levels[s].tokens for s, _ in self.pairs))
        self.num_random = params.num_random or _NUM_RANDOM
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``patch``, ``sample`` and ``random``, each the mean over the pairs; rows are drawn anew for each pair."""
        found = [
            manifold(student.levels[s].tokens, teachers[0].levels[t].tokens, num_random=self.num_random)
            for s, t in self.pairs
        ]
        means = (torch.stack(values).mean() for values in zip(*found, strict=True))
        return {name: weight * mean for (name, weight), mean in zip(self.weights.items(), means, strict=True)}


def both_ends(mine: int, theirs: int) -> Pairs:
    """The first blocks with the first and the last with the last: a third of the shallower network's at each end.

    At most four: 12 and 24 blocks give 0 to 3 with 0 to 3, and 8 to 11 with 20 to 23.
    """
    count = min(_BLOCKS_AT_EACH_END, -(-min(mine, theirs) // 3))
    first = [(place, place) for place in range(count)]
    last = [(mine - place, theirs - place) for place in range(count, 0, -1)]
    return tuple(dict.fromkeys([*first, *last]))


def _check_grids(setting: MethodContext, student_level: int, teacher_level: int) -> None:
    student, teacher = setting.student_structure, setting.teacher_structures[0]
    mine, theirs = student.levels[student_level].grid, teacher.levels[teacher_level].grid
    if mine != theirs:
        one_grid = student.is_vit and teacher.is_vit
        fix = grid_hint(setting, theirs) if one_grid else "choose layers that have one grid, or ViTs on both sides"
        raise invalid_architecture(
            "student",
            f"manifold compares patch by patch: level {student_level} of the student has {mine[0]} × {mine[1]} patches "
            f"and level {teacher_level} of the teacher {theirs[0]} × {theirs[1]}; {fix}, or use method fitnets, "
            "which takes any two grids",
        )


def _check_draws(params: ManifoldParams, setting: MethodContext, num_patches: int) -> None:
    there = num_patches * min(setting.batch_size, setting.num_samples)
    if params.num_random is not None and params.num_random > there:
        raise invalid_param(
            "num_random",
            f"a batch has {there} patches, {params.num_random} cannot be drawn; leave it out or choose {there} at most",
        )
