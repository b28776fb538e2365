"""One for all: exits at the student's stages answer for themselves, and each answer matches the teacher's logits.

Hao et al. 2023, arXiv:2310.19444, eq. 5: cross-entropy + loss(student) + the sum of loss(exit) over the
stages, all with weight 1. The loss is :func:`core.losses.one_for_all`, on logarithms of softmax instead of logarithms
of probabilities that can be 0 in half precision. Nothing is asked of the teacher but logits, so any teacher
will do. Where the official code knows three ViTs by name, stages are found by relative depth here.
Mixed pictures count for their likelier class.

The exits (:mod:`core.models.early_exits`) follow the official ones, and a class token is read where there is one. They
belong to the method: the exported student is the one that was asked for.
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

    def __init__(self, params: OfaParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.params = params
        self.label_weight, self.distillation_weight = params.label_weight, params.weight
        self.stages = _stages(setting.student_structure, params.stages)
        self.exits = nn.ModuleList(_exit(setting, stage) for stage in self.stages)
        self.student_taps = FeatureRequest(levels=self.stages)

    def distance(self, student_BC: Tensor, teacher_BC: Tensor, batch: Batch) -> Tensor:
        """Soft labels whose right class counts more with epsilon above 1."""
        asked = self.params
        return one_for_all(student_BC, teacher_BC, batch.labels, epsilon=asked.epsilon, temperature=asked.temperature)

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], moment: StepInfo) -> dict[str, Tensor]:
        """The student's own terms, and ``exits``, the weighted sum over the stages."""
        answers = [leave(student.levels[stage]) for stage, leave in zip(self.stages, self.exits, strict=True)]
        distances = torch.stack([self.distillation(answer_BC, teachers, batch) for answer_BC in answers])
        terms = super().loss(batch, student, teachers, moment)
        return {**terms, "exits": self.params.exit_weight * distances.sum()}


def _stages(student: ModelStructure, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The levels that get an exit. Raises ``InvalidSpec`` where the student has them not."""
    depth = len(check_levels(student, "student", "ofa"))
    if given is not None:
        if given[-1] >= depth:
            raise invalid_param(
                "stages", f"the student {student.architecture} has levels 0 to {depth - 1}, there is no {given[-1]}"
            )
        return given
    if depth <= _NUM_STAGES or not student.is_vit:
        return tuple(range(max(depth - _NUM_STAGES, 0), depth))
    return tuple(round(depth * part) - 1 for part in _RELATIVE_DEPTHS)


def _exit(setting: MethodContext, stage: int) -> TokenExit | ConvExit:
    """An exit that is the deeper the earlier its stage."""
    student, num_classes = setting.student_structure, setting.student.num_classes
    level, left = student.levels[stage], len(student.levels) - 1 - stage
    if student.is_vit:
        left = round((_NUM_STAGES - 1) * left / max(len(student.levels) - 1, 1))
    left = min(left, _NUM_STAGES - 1)
    if student.family != "cnn":
        return TokenExit(
            level.grid, level.width, num_classes, num_blocks=max(left, 1), class_token=student.has_class_token
        )
    _check_batches(setting)
    theirs = [teacher.embedding or 0 for teacher in setting.teacher_structures]
    return ConvExit(level.width, max(student.levels[-1].width, *theirs), num_classes, num_halvings=left)


def _check_batches(setting: MethodContext) -> None:
    """Batch norms of a single picture with a single place left have nothing to normalise over."""
    if setting.num_samples // steps_per_epoch(setting.num_samples, setting.batch_size) < 2:
        raise invalid_param(
            "", "exits of a CNN normalise over the batch; set training.batch_size so that none has one image"
        )
