"""Fine-grained manifold distillation: cosines between the student's patch tokens match the teacher's.

Paper: Hao et al. 2022, arXiv:2107.01378, eq. 6 to 10: mean squared differences of Gram matrices of unit tokens, among
the patches of an image, among the images at a patch, and among tokens drawn from the batch, averaged over pairs of
blocks. As in the authors' code, blocks are read before the final norm; their recipe adds soft labels at temperature 1
and leaves out the labels.

Deviation: class, distillation and register tokens are removed from each network by its own number of them. The
authors' code removes the difference of the two numbers, which keeps class tokens that both networks have, and is
silently wrong if the teacher has more. Nothing is trained in addition to the student, so nothing is dropped at export.
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
_MAX_BLOCKS_PER_END = 4  # for 12 and 24 blocks, as in the authors' recipe; fewer for shallower networks


class Manifold(FeatureMethod):
    """Terms ``patch``, ``sample`` and ``random``, by default of the first and the last blocks."""

    def __init__(self, params: ManifoldParams, context: MethodContext) -> None:
        super().__init__(params, context)
        student, teacher = context.student_structure, context.teacher_structures[0]
        layers = params.layers or end_pairs(len(student.levels), len(teacher.levels))
        self.pairs = pair_levels(student, teacher, layers, count=len(layers), method=params.name)
        self.per_sample = self.per_sample and params.sample_weight == params.random_weight == 0
        self.weights = {"patch": params.patch_weight, "sample": params.sample_weight, "random": params.random_weight}
        for s, t in self.pairs:
            _check_grids(context, s, t)
        _check_num_random(params, context, max(student.levels[s].tokens for s, _ in self.pairs))
        self.num_random = params.num_random or _NUM_RANDOM
        self.student_taps = FeatureRequest(levels=tuple(s for s, _ in self.pairs))
        self.teacher_taps = FeatureRequest(levels=tuple(t for _, t in self.pairs))

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``patch``, ``sample`` and ``random``, each the mean over the pairs; each pair draws its own tokens."""
        terms_by_pair = [
            manifold(student.levels[s].tokens, teachers[0].levels[t].tokens, num_random=self.num_random)
            for s, t in self.pairs
        ]
        means = (torch.stack(values).mean() for values in zip(*terms_by_pair, strict=True))
        return {name: weight * mean for (name, weight), mean in zip(self.weights.items(), means, strict=True)}


def end_pairs(student_depth: int, teacher_depth: int) -> Pairs:
    """Pair the first blocks of both networks, and the last: a third of the shallower network at each end.

    At most four per end: depths 12 and 24 give 0 to 3 with 0 to 3, and 8 to 11 with 20 to 23.
    """
    count = min(_MAX_BLOCKS_PER_END, -(-min(student_depth, teacher_depth) // 3))
    first = [(index, index) for index in range(count)]
    last = [(student_depth - offset, teacher_depth - offset) for offset in range(count, 0, -1)]
    return tuple(dict.fromkeys([*first, *last]))


def _check_grids(context: MethodContext, student_level: int, teacher_level: int) -> None:
    student, teacher = context.student_structure, context.teacher_structures[0]
    student_grid, teacher_grid = student.levels[student_level].grid, teacher.levels[teacher_level].grid
    if student_grid != teacher_grid:
        both_vits = student.is_vit and teacher.is_vit
        fix = (
            grid_hint(context, teacher_grid)
            if both_vits
            else "choose layers with the same grid, or ViTs for student and teacher"
        )
        raise invalid_architecture(
            "student",
            f"manifold compares patch by patch: level {student_level} of the student has {student_grid[0]} × "
            f"{student_grid[1]} patches and level {teacher_level} of the teacher {teacher_grid[0]} × "
            f"{teacher_grid[1]}; {fix}, or use method fitnets, which supports different grids",
        )


def _check_num_random(params: ManifoldParams, context: MethodContext, num_patches: int) -> None:
    available = num_patches * min(context.batch_size, context.num_samples)
    if params.num_random is not None and params.num_random > available:
        raise invalid_param(
            "num_random",
            f"a batch has {available} patches, {params.num_random} cannot be drawn; leave it out or choose at most "
            f"{available}",
        )
