"""One-for-all distillation: early exits at the student's stages match the teacher's logits.

Paper: Hao et al. 2023, arXiv:2310.19444, eq. 5: cross-entropy + loss(student) + the sum of loss(exit) over the stages,
all with weight 1. The loss is :func:`core.losses.one_for_all`. Only logits of the teacher are used, so its architecture
is arbitrary.

The exits (:mod:`core.models.early_exits`) follow the official ones and read the class token if there is one. They
belong to the method and are dropped at export. Formula and deviations: :class:`core.spec.methods.ofa.OfaParams`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.data.views import steps_per_epoch
from core.losses import one_for_all
from core.methods.base import Batch, MethodContext, StepInfo, invalid_param
from core.methods.compatibility import check_levels
from core.methods.logit_base import LogitMethod
from core.models.early_exits import ConvExit, TokenExit
from core.models.structure import ModelStructure
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.ofa import OfaParams

_NUM_STAGES = 4
_RELATIVE_DEPTHS = (1 / 6, 1 / 3, 5 / 6, 1)  # blocks 1, 3, 9 and 11 of 12, as the stages 2-2-6-2 of a Swin


class Ofa(LogitMethod):
    """Terms ``label``, ``distillation`` and ``exits``."""

    def __init__(self, params: OfaParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.label_weight, self.distillation_weight = params.label_weight, params.weight
        self.stages = _stages(context.student_structure, params.stages)
        self.exits = nn.ModuleList(_exit(context, stage) for stage in self.stages)
        self.student_taps = FeatureRequest(levels=self.stages)

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """Soft-label loss that emphasizes the target class where epsilon is above 1."""
        params = self.params
        return one_for_all(student_BC, teacher_BC, batch.labels, epsilon=params.epsilon, temperature=params.temperature)

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """The student's own terms, and ``exits``, the weighted sum over the stages."""
        exit_logits = [exit_(student.levels[stage]) for stage, exit_ in zip(self.stages, self.exits, strict=True)]
        distances = torch.stack([self.distillation(logits_BC, teachers, batch) for logits_BC in exit_logits])
        terms = super().loss(batch, student, teachers, info)
        return {**terms, "exits": self.params.exit_weight * distances.sum()}


def _stages(student: ModelStructure, stages: tuple[int, ...] | None) -> tuple[int, ...]:
    """The levels with an exit: ``stages``, or four by default. Raises ``InvalidSpec`` if one does not exist."""
    depth = len(check_levels(student, "student", "ofa"))
    if stages is not None:
        if stages[-1] >= depth:
            raise invalid_param(
                "stages",
                f"the student {student.architecture} has levels 0 to {depth - 1}; level {stages[-1]} does not exist",
            )
        return stages
    if depth <= _NUM_STAGES or not student.is_vit:
        return tuple(range(max(depth - _NUM_STAGES, 0), depth))
    return tuple(round(depth * relative_depth) - 1 for relative_depth in _RELATIVE_DEPTHS)


def _exit(context: MethodContext, stage: int) -> TokenExit | ConvExit:
    """Build the exit of a stage; earlier stages have deeper exits."""
    student, num_classes = context.student_structure, context.student.num_classes
    level, num_remaining = student.levels[stage], len(student.levels) - 1 - stage
    if student.is_vit:
        num_remaining = round((_NUM_STAGES - 1) * num_remaining / max(len(student.levels) - 1, 1))
    num_remaining = min(num_remaining, _NUM_STAGES - 1)
    if student.family != "cnn":
        return TokenExit(
            level.grid, level.width, num_classes, num_blocks=max(num_remaining, 1), class_token=student.has_class_token
        )
    _check_batch_size(context)
    teacher_widths = [teacher.embedding or 0 for teacher in context.teacher_structures]
    return ConvExit(
        level.width, max(student.levels[-1].width, *teacher_widths), num_classes, num_halvings=num_remaining
    )


def _check_batch_size(context: MethodContext) -> None:
    """Raise ``InvalidSpec`` for batches of one image: batch norm needs two values per channel to normalize."""
    if context.num_samples // steps_per_epoch(context.num_samples, context.batch_size) < 2:
        raise invalid_param(
            "", "exits of a CNN normalize over the batch; set training.batch_size so that no batch has a single image"
        )
