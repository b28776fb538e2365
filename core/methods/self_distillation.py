"""Self-distillation: the student is its own teacher.

``exits``, paper: Be Your Own Teacher, Zhang et al. 2019, arXiv:1905.08094, eq. 5, in the form of its code. The last
layer learns from the labels. Exits at a third and two thirds of the depth learn from the labels, the last layer's soft
labels and its features. The targets are detached from the last layer. Exits are dropped at export.

``ema_teacher``, paper: Mean Teacher, Tarvainen and Valpola 2017, arXiv:1703.01780: the student learns from the moving
average of its weights, which sees its own view of each image.

Formulas and deviations: :class:`core.spec.methods.self_distillation.SelfDistillationParams`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from core.losses import cross_entropy_kd, kd
from core.methods.base import Batch, Method, MethodContext, StepContext, StepInfo, invalid_architecture, invalid_param
from core.methods.compatibility import check_levels, embedding_width, last_level
from core.methods.ema_teacher import EmaTeacher, precision_of
from core.methods.random_views import RandomViews
from core.models.align import TokenProjector, resample
from core.models.structure import FeatureLevel, ModelStructure
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.self_distillation import SelfDistillationParams

_MAX_HEADS = 4


class SelfDistillation(Method):
    """Term ``label``; in addition ``exits_*`` with variant ``exits``, ``distillation`` with ``ema_teacher``."""

    def __init__(self, params: SelfDistillationParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        self.average: EmaTeacher | None = None
        if params.variant == "ema_teacher":
            self.average = EmaTeacher(context.student, params.momentum, copy.deepcopy(context.student.module))
            return
        student = context.student_structure
        self.exit_levels = _exit_levels(student, params.exits)
        last = last_level(student, "student", params.name, fix="or set variant to ema_teacher")
        levels = [student.levels[index] for index in self.exit_levels]
        self.exits = nn.ModuleList(BlockExit(level, last.grid, context.student.num_classes) for level in levels)
        has_norms = params.hint == "norm"
        hint_width = embedding_width(student, "student", params.name) if has_norms else last.width
        # With norms, the exit next to the last layer has no hint: the official code leaves it out.
        hinted = levels[: max(len(levels) - 1, 1)] if has_norms else levels
        self.adaptations = nn.ModuleList(TokenProjector(level.width, hint_width) for level in hinted)
        self.per_sample = not has_norms or params.hint_weight == 0
        self.student_taps = FeatureRequest(levels=self.exit_levels, last=not has_norms, embedding=has_norms)

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """The weighted terms of the variant."""
        student = step.student(batch.images)
        if self.average is None:
            return self._exit_terms(batch, student)
        with precision_of(student.logits):
            teacher_BC = self.average(self._view(batch.images))
        params = self.params
        divergence = kd(student.logits, teacher_BC, temperature=params.temperature)
        label = (1 - params.alpha) * self.label_loss(student.logits, batch)
        return {"label": label, "distillation": params.alpha * divergence}

    def after_step(self, student: nn.Module, info: StepInfo) -> None:
        """Update the moving average."""
        if self.average is not None:
            self.average.update(student, info.step, info.total_steps)

    def _exit_terms(self, batch: Batch, student: Outputs) -> dict[str, Tensor]:
        params = self.params
        outputs = [exit_(student.levels[level]) for level, exit_ in zip(self.exit_levels, self.exits, strict=True)]
        labels = [self.label_loss(logits_BC, batch) for logits_BC, _ in outputs]
        soft_labels = [soft_cross_entropy(logits_BC, student.logits, params.temperature) for logits_BC, _ in outputs]
        return {
            "label": self.label_loss(student.logits, batch),
            "exits_label": (1 - params.alpha) * torch.stack(labels).sum(),
            "exits_distillation": params.alpha * torch.stack(soft_labels).sum(),
            "exits_hint": params.hint_weight * self._hint([tokens_BNd for _, tokens_BNd in outputs], student),
        }

    def _hint(self, tokens: Sequence[Tensor], student: Outputs) -> Tensor:
        """Distance between the adapted features of the exits and the last ones, summed over the exits with a hint."""
        pairs = zip(tokens[: len(self.adaptations)], self.adaptations, strict=True)
        if self.params.hint == "norm":
            assert student.embedding is not None
            target_BD = student.embedding.detach().float()
            hints = [torch.linalg.vector_norm(adapt(t_BNd.mean(dim=1)) - target_BD) for t_BNd, adapt in pairs]
        else:
            assert student.last is not None
            target_BND = student.last.tokens.detach().float()
            hints = [F.mse_loss(adapt(t_BNd), target_BND) for t_BNd, adapt in pairs]
        return torch.stack(hints).sum()

    def _view(self, images_BCHW: Tensor) -> Tensor:
        """The moving average's view of the student's images."""
        if self.params.view == "same":
            return images_BCHW
        if self.params.view == "flip":
            return images_BCHW.flip(-1)
        crops = RandomViews(
            probability=1.0, max_rotation=0.0, min_crop=self.params.min_crop, mask_share=0.0, grid=(1, 1)
        )
        return crops.draw(len(images_BCHW), images_BCHW.device).apply(images_BCHW)


class BlockExit(nn.Module):
    """A block and a norm on a level's patch tokens, and a head on their mean, in float32."""

    def __init__(self, level: FeatureLevel, grid: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        self.grid = grid
        heads = max(count for count in range(1, _MAX_HEADS + 1) if level.width % count == 0)
        self.block = Block(level.width, heads)
        self.norm = nn.LayerNorm(level.width)
        self.head = nn.Linear(level.width, num_classes)

    def forward(self, feature: Feature) -> tuple[Tensor, Tensor]:
        """Return logits (B, classes) and tokens (B, N, d) on the last features' grid."""
        tokens_BNd = self.norm(self.block(resample(feature, self.grid).tokens.float()))
        return self.head(tokens_BNd.mean(dim=1)), tokens_BNd


def soft_cross_entropy(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of both softened distributions, mean over the batch, without the factor T²."""
    return cross_entropy_kd(student_BC, teacher_BC, temperature=temperature) / temperature**2


def _exit_levels(student: ModelStructure, exits: Sequence[int] | None) -> tuple[int, ...]:
    """Levels with an exit, without the last level. Raises ``InvalidSpec`` if one does not exist."""
    depth = len(check_levels(student, "student", "self_distillation"))
    if depth < 2:
        raise invalid_architecture(
            "student",
            f"{student.architecture} has a single level, and exits are placed before the last level; increase its "
            "depth, or set variant to ema_teacher",
        )
    if exits is None:
        return tuple(sorted({max(round(depth * third / 3), 1) - 1 for third in (1, 2)}))
    if exits[-1] >= depth - 1:
        raise invalid_param(
            "exits", f"the student {student.architecture} has levels 0 to {depth - 2} before its last one"
        )
    return tuple(exits)
