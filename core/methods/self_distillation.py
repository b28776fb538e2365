"""Self-distillation: the student is its own teacher.

``exits``, paper: Be Your Own Teacher, Zhang et al. 2019, arXiv:1905.08094, eq. 5. The last layer learns from the
labels. Exits at a third and two thirds of the depth learn by (1 − alpha) · labels + alpha · T² · KL(last ‖ exit) +
hint_weight · squared error between their projected tokens and the last tokens, summed over the exits. The targets are
detached from the last layer. Deviations: an exit is a transformer block and a projection, where the paper has
convolutions; the squared error is a mean over entries. Exits are dropped at export.

``ema_teacher``, paper: Mean Teacher, Tarvainen and Valpola 2017, arXiv:1703.01780: (1 − alpha) · labels + alpha · T² ·
KL(average ‖ student), where the moving average of the student's weights sees its own view of each image. Deviation:
soft labels replace the paper's squared error. The student is exported, not the average; ``training.ema`` exports an
average.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from core.losses import kd
from core.methods.base import Batch, Method, MethodContext, StepContext, StepInfo, invalid_architecture, invalid_param
from core.methods.compatibility import check_levels
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
        if student.last is None:
            raise invalid_architecture(
                "student",
                f"timm's {student.architecture} does not expose its last features; use another architecture",
            )
        last, num_classes = student.last, context.student.num_classes
        self.exits = nn.ModuleList(HintExit(student.levels[level], last, num_classes) for level in self.exit_levels)
        self.student_taps = FeatureRequest(levels=self.exit_levels, last=True)

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
        assert student.last is not None
        params, target_BND = self.params, student.last.tokens.detach().float()
        outputs = [exit_(student.levels[level]) for level, exit_ in zip(self.exit_levels, self.exits, strict=True)]
        labels = [self.label_loss(logits_BC, batch) for logits_BC, _ in outputs]
        divergences = [kd(logits_BC, student.logits, temperature=params.temperature) for logits_BC, _ in outputs]
        hints = [F.mse_loss(tokens_BND, target_BND) for _, tokens_BND in outputs]
        return {
            "label": self.label_loss(student.logits, batch),
            "exits_label": (1 - params.alpha) * torch.stack(labels).sum(),
            "exits_distillation": params.alpha * torch.stack(divergences).sum(),
            "exits_hint": params.hint_weight * torch.stack(hints).sum(),
        }

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


class HintExit(nn.Module):
    """Project a level's patch tokens to the last features' grid and width, and classify their mean, in float32."""

    def __init__(self, level: FeatureLevel, last: FeatureLevel, num_classes: int) -> None:
        super().__init__()
        self.grid = last.grid
        heads = max(count for count in range(1, _MAX_HEADS + 1) if level.width % count == 0)
        self.block = Block(level.width, heads)
        self.norm = nn.LayerNorm(level.width)
        self.project = TokenProjector(level.width, last.width)
        self.head = nn.Linear(last.width, num_classes)

    def forward(self, feature: Feature) -> tuple[Tensor, Tensor]:
        """Return logits (B, classes) and tokens (B, N, D) on the last features' grid."""
        tokens_BNd = resample(feature, self.grid).tokens.float()
        tokens_BND = self.project(self.norm(self.block(tokens_BNd)))
        return self.head(tokens_BND.mean(dim=1)), tokens_BND


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
