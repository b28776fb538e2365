"""A CNN's predictions at every place teach the patch tokens: cumulative spatial distillation (CSKD).

Zhao et al. 2023, arXiv:2307.08500. The teacher's classifier, applied at every position of its last
map, gives local predictions whose mean is its global one. The student is DeiT's, and its distillation
head reads the patch tokens as well: they learn share · local + (1 − share) · global logits, where the
share falls from 1 to 0 over the training. Grids are brought to the coarser one by averaging.

As in the official code, the distillation head is shared by token and patches, and the labels, the
token and the patches weigh 1 − alpha, alpha and ``weight``. Deviations: the soft spatial term is a
mean over places (there a sum); the exported student averages its two heads as DeiT does, while the
official one adds the mean of the patches' predictions as a third. Nothing is dropped at export.
Shapes: B pictures, N student patches, P places of the common grid, D width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import SpecCannotRun
from core.losses import token_divergence
from core.methods.base import Batch, Method, MethodContext, StepContext, invalid_architecture
from core.models.align import coarser, resampled
from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta
from core.models.structure import FeatureLevel, ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.cumulative_spatial import CumulativeSpatialParams

# Parts between the last map and the logits that a mean over positions passes through. Dropout rests in a teacher.
_POOLING = {"SelectAdaptivePool2d", "AdaptiveAvgPool2d", "FastAdaptiveAvgPool", "Flatten", "Identity", "Dropout"}


class CumulativeSpatial(Method):
    """Three terms: ``label`` (class head), ``distillation`` (token) and ``spatial`` (patches)."""

    uses_cached_outputs = True

    def __init__(self, params: CumulativeSpatialParams, setting: MethodContext) -> None:
        super().__init__(setting)
        _check_teacher(setting.teachers[0], setting.teacher_structures[0])
        self.params = params
        self.student_taps = FeatureRequest(last=True)
        self.teacher_taps = FeatureRequest(last=True)
        # Not trained here: the tuple hides the student's own layer from this module.
        self._token_head: tuple[nn.Module] | None = None

    @classmethod
    def student_variant(
        cls, params: CumulativeSpatialParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant:
        """Timm's distilled ViT with the same arguments."""
        return StudentVariant("distilled")

    def prepare_student(self, student: nn.Module) -> None:
        """Make the student return both heads' logits while it trains, and find its distillation head.

        Raises ``SpecCannotRun`` for a student without a distillation token.
        """
        switch, head = getattr(student, "set_distilled_training", None), getattr(student, "head_dist", None)
        if switch is None or head is None:
            raise SpecCannotRun(
                f"cumulative_spatial needs a student with a distillation token, {type(student).__name__} has none; "
                "choose a ViT as student, or method kd"
            )
        switch(True)
        self._token_head = (head,)

    def terms(self, batch: Batch, room: StepContext) -> dict[str, Tensor]:
        """``label``, ``distillation`` and ``spatial``, weighted."""
        params, moment = self.params, room.info
        (teacher,) = room.teachers
        (guide,), student = room.teacher_outputs(batch), room.student(batch.images)
        (token_logits,) = student.token_logits
        local = predictions(teacher.built.module.get_classifier(), guide.last)  # type: ignore[operator]
        share = local_share(params.decay, moment.fraction)
        return {
            "label": (1 - params.alpha) * self.label_loss(student.logits, batch),
            "distillation": params.alpha * self._divergence(token_logits, guide.logits, params.token_type),
            "spatial": params.weight * self.spatial(student, local, guide.logits, share=share),
        }

    def spatial(self, student: Outputs, local: Feature, global_BC: Tensor, *, share: float) -> Tensor:
        """How far the patches' predictions are from the teacher's at their places, the mean over places."""
        assert self._token_head is not None, "prepare_student comes first"
        mine = predictions(self._token_head[0], student.last)
        grid = coarser(mine.grid, local.grid)
        mine_BPC, local_BPC = resampled(mine, grid).tokens, resampled(local, grid).tokens
        target_BPC = share * local_BPC + (1 - share) * global_BC.unsqueeze(1)
        return self._divergence(mine_BPC.flatten(0, 1), target_BPC.flatten(0, 1), self.params.spatial_type)

    def _divergence(self, student: Tensor, teacher: Tensor, kind: Literal["soft", "hard"]) -> Tensor:
        return token_divergence(
            student, teacher, distillation_type=kind, temperature=self.params.temperature, reduction="sample"
        )


def predictions(head: nn.Module, last: Feature | None) -> Feature:
    """What a linear head says at every place of the last features, as features of C channels."""
    assert last is not None
    assert isinstance(head, nn.Linear | nn.Conv2d)
    return Feature(F.linear(last.tokens.float(), head.weight.flatten(1), head.bias), last.grid)


def local_share(decay: str, fraction: float) -> float:
    """How much of the target is local when ``fraction`` of the training is done: from 1 to 0."""
    if decay == "quadratic":
        return (1 - fraction) ** 2
    return math.cos(math.pi / 2 * fraction) if decay == "cosine" else 1 - fraction


def _check_teacher(teacher: BuiltModel, anatomy: ModelStructure) -> None:
    """Raises ``InvalidSpec`` unless the logits are one linear layer of the mean of the last map."""
    if anatomy.last is not None and _ends_in_mean_and_linear(teacher, anatomy.last):
        return
    raise invalid_architecture(
        "teachers/0",
        f"cumulative_spatial applies the teacher's classifier at every place, which needs one linear layer right "
        f"behind global average pooling, and {anatomy.architecture} does not end so; use a ResNet, RegNet or "
        "EfficientNet, or method deit",
    )


def _ends_in_mean_and_linear(teacher: BuiltModel, last: FeatureLevel) -> bool:
    module = build_on_meta(teacher.architecture, teacher.arguments).eval()
    parts: list[nn.Module] = []
    leaves = [part for part in module.modules() if not list(part.children())]
    hooks = [part.register_forward_pre_hook(lambda part, _inputs: parts.append(part)) for part in leaves]
    try:
        module.forward_head(torch.empty(2, last.width, *last.grid, device="meta"))  # type: ignore[operator]
    except (AttributeError, RuntimeError, TypeError):
        return False
    finally:
        for hook in hooks:
            hook.remove()
    linear = [part for part in parts if type(part).__name__ not in _POOLING]
    head = linear[0] if len(linear) == 1 else None
    plain = isinstance(head, nn.Linear) or (isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1))
    return plain and head is module.get_classifier()  # type: ignore[operator]
