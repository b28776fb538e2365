"""Self-distillation: the student is its own teacher.

``exits`` (Be Your Own Teacher, Zhang et al. 2019, arXiv:1905.08094, eq. 5): the last layer learns from the labels; an
exit at a third and one at two thirds of the depth learn by (1 − alpha) · labels + alpha · T² · KL(last ‖ exit) +
hint_weight · squared error between their projected tokens and the last ones. Sums over the exits, nothing flows back
into the last layer from what it teaches. An exit is a transformer block and a projection, where the paper has
convolutions; the squared error is a mean over entries. Exits are dropped at export.

``ema_teacher`` (Mean Teacher, Tarvainen and Valpola 2017, arXiv:1703.01780, with soft labels in place of squared
errors): (1 − alpha) · labels + alpha · T² · KL(average ‖ student), where the moving average of the student's weights
sees a view of its own. The student is exported, not the average; ``training.ema`` exports one.
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
from core.models.align import TokenProjector, resampled
from core.models.structure import FeatureLevel, ModelStructure
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.self_distillation import SelfDistillationParams

_MOST_HEADS = 4


class SelfDistillation(Method):
    """Term ``label``; with ``exits`` those that begin so, with ``ema_teacher`` ``distillation``."""

    def __init__(self, params: SelfDistillationParams, setting: MethodContext) -> None:
        super().__init__(setting)
        self.params = params
        self.average: EmaTeacher | None = None
        if params.variant == "ema_teacher":
            self.average = EmaTeacher(setting.student, params.momentum, copy.deepcopy(setting.student.module))
            return
        mine = setting.student_structure
        self.places = _places(mine, params.exits)
        if mine.last is None:
            raise invalid_architecture(
                "student", f"timm's {mine.architecture} does not give its last features; use another one"
            )
        last, num_classes = mine.last, setting.student.num_classes
        self.exits = nn.ModuleList(HintExit(mine.levels[place], last, num_classes) for place in self.places)
        self.student_taps = FeatureRequest(levels=self.places, last=True)

    def terms(self, batch: Batch, room: StepContext) -> dict[str, Tensor]:
        """The terms of the variant that was asked for."""
        student = room.student(batch.images)
        if self.average is None:
            return self._from_last(batch, student)
        with precision_of(student.logits):
            guide = self.average(self._view(batch.images))
        asked = self.params
        divergence = kd(student.logits, guide, temperature=asked.temperature)
        label = (1 - asked.alpha) * self.label_loss(student.logits, batch)
        return {"label": label, "distillation": asked.alpha * divergence}

    def after_step(self, student: nn.Module, moment: StepInfo) -> None:
        """The average follows the student."""
        if self.average is not None:
            self.average.update(student, moment.step, moment.total_steps)

    def _from_last(self, batch: Batch, student: Outputs) -> dict[str, Tensor]:
        assert student.last is not None
        asked, goal_BND = self.params, student.last.tokens.detach().float()
        answers = [leave(student.levels[place]) for place, leave in zip(self.places, self.exits, strict=True)]
        labels = [self.label_loss(logits_BC, batch) for logits_BC, _ in answers]
        divergences = [kd(logits_BC, student.logits, temperature=asked.temperature) for logits_BC, _ in answers]
        hints = [F.mse_loss(tokens_BND, goal_BND) for _, tokens_BND in answers]
        return {
            "label": self.label_loss(student.logits, batch),
            "exits_label": (1 - asked.alpha) * torch.stack(labels).sum(),
            "exits_distillation": asked.alpha * torch.stack(divergences).sum(),
            "exits_hint": asked.hint_weight * torch.stack(hints).sum(),
        }

    def _view(self, images_BCHW: Tensor) -> Tensor:
        """What the average sees of the student's pictures."""
        if self.params.view == "same":
            return images_BCHW
        if self.params.view == "flip":
            return images_BCHW.flip(-1)
        crops = RandomViews(
            probability=1.0, max_rotation=0.0, min_crop=self.params.min_crop, mask_share=0.0, grid=(1, 1)
        )
        return crops.draw(len(images_BCHW), images_BCHW.device).of(images_BCHW)


class HintExit(nn.Module):
    """Patch tokens of a level, brought to grid and width of the last features, and logits of their mean. In float32."""

    def __init__(self, level: FeatureLevel, last: FeatureLevel, num_classes: int) -> None:
        super().__init__()
        self.grid = last.grid
        heads = max(count for count in range(1, _MOST_HEADS + 1) if level.width % count == 0)
        self.block = Block(level.width, heads)
        self.norm = nn.LayerNorm(level.width)
        self.project = TokenProjector(level.width, last.width)
        self.head = nn.Linear(last.width, num_classes)

    def forward(self, feature: Feature) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and tokens (B, N, D) on the last grid."""
        tokens_BNd = resampled(feature, self.grid).tokens.float()
        tokens_BND = self.project(self.norm(self.block(tokens_BNd)))
        return self.head(tokens_BND.mean(dim=1)), tokens_BND


def _places(student: ModelStructure, given: Sequence[int] | None) -> tuple[int, ...]:
    """Levels with an exit, none of them the last. Raises ``InvalidSpec`` where the student has them not."""
    depth = len(check_levels(student, "student", "self_distillation"))
    if depth < 2:
        raise invalid_architecture(
            "student",
            f"{student.architecture} has a single level here, and exits leave before the last; give it more depth, or "
            "set variant to ema_teacher",
        )
    if given is None:
        return tuple(sorted({max(round(depth * part / 3), 1) - 1 for part in (1, 2)}))
    if given[-1] >= depth - 1:
        raise invalid_param(
            "exits", f"the student {student.architecture} has levels 0 to {depth - 2} before its last one"
        )
    return tuple(given)
