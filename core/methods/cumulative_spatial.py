"""Cumulative spatial knowledge distillation (CSKD): patch tokens learn a CNN's predictions at their positions.

Paper: Zhao et al. 2023, arXiv:2307.08500; official code Zzzzz1/CSKD. The teacher's classifier, applied at every
position of its last map, gives local predictions whose mean is its global prediction. The student is a ViT with a
distillation token, whose head also reads the patch tokens. They learn share · local + (1 − share) · global logits,
where the share falls from 1 to 0 over the training. The finer grid is averaged to the coarser one. The labels, the
token and the patches weigh 1 − alpha, alpha and ``weight``. At inference the student averages three votes, as the
official code: class head, distillation head, and distillation head of the mean patch token.

Deviations: the share falls with every step (with every epoch in the official code). The reduction ``sample`` of the
soft terms divides by images, and for patches by positions; ``official`` divides the token's term by images times
classes, and sums the patches' over positions. Nothing is dropped at export.

Shapes: B images, N student patches, P positions of the common grid, D width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import SpecCannotRun
from core.losses import token_divergence
from core.methods.base import Batch, Method, MethodContext, StepContext, invalid_architecture
from core.models.align import coarser_grid, resample
from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta
from core.models.structure import FeatureLevel, ModelStructure
from core.models.student_variants import StudentVariant
from core.models.taps import Feature, FeatureRequest, Outputs
from core.spec.methods.cumulative_spatial import CumulativeSpatialParams

# Layers of a head that leave "mean over positions, then linear" intact. Dropout is inactive in a frozen teacher.
_POOLING_LAYERS = {
    "SelectAdaptivePool2d", "AdaptiveAvgPool2d", "FastAdaptiveAvgPool", "Flatten", "Identity", "Dropout",
}  # fmt: skip


class CumulativeSpatial(Method):
    """Three terms: ``label`` (class head), ``distillation`` (token) and ``spatial`` (patches)."""

    uses_cached_outputs = True

    def __init__(self, params: CumulativeSpatialParams, context: MethodContext) -> None:
        super().__init__(context)
        _check_teacher(context.teachers[0], context.teacher_structures[0])
        self.params = params
        self.student_taps = FeatureRequest(last=True)
        self.teacher_taps = FeatureRequest(last=True)
        # The tuple keeps the student's own layer from being registered as a submodule and trained twice.
        self._token_head: tuple[nn.Module] | None = None

    @classmethod
    def student_variant(
        cls, params: CumulativeSpatialParams, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant:
        """A ViT with one distillation token, which averages in the vote of the patch tokens."""
        return StudentVariant("flexible", {"distillation_tokens": 1, "patch_vote": True})

    def prepare_student(self, student: nn.Module) -> None:
        """Make the student return both heads' logits in training mode, and store its distillation head.

        Raises ``SpecCannotRun`` for a student without a distillation token.
        """
        set_distilled_training = getattr(student, "set_distilled_training", None)
        heads: Any = getattr(student, "heads_dist", ())
        if set_distilled_training is None or len(heads) != 1:
            raise SpecCannotRun(
                f"cumulative_spatial needs a student with a distillation token, {type(student).__name__} has none; "
                "choose a ViT as student, or method kd"
            )
        set_distilled_training(True)
        self._token_head = (heads[0],)

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """``label``, ``distillation`` and ``spatial``, weighted."""
        params = self.params
        (teacher_network,) = step.teachers
        (teacher,), student = step.teacher_outputs(batch), step.student(batch.images)
        (token_logits,) = student.token_logits
        local = local_predictions(teacher_network.built.module.get_classifier(), teacher.last)  # type: ignore[operator]
        share = local_share(params.decay, step.info.fraction)
        return {
            "label": (1 - params.alpha) * self.label_loss(student.logits, batch),
            "distillation": params.alpha * self._token_term(token_logits, teacher.logits),
            "spatial": params.weight * self.spatial(student, local, teacher.logits, share=share),
        }

    def spatial(self, student: Outputs, local: Feature, global_BC: Tensor, *, share: float) -> Tensor:
        """Divergence of the patches' predictions from the teacher's at their positions."""
        assert self._token_head is not None, "prepare_student comes first"
        predicted = local_predictions(self._token_head[0], student.last)
        grid = coarser_grid(predicted.grid, local.grid)
        student_BPC, local_BPC = resample(predicted, grid).tokens, resample(local, grid).tokens
        target_BPC = share * local_BPC + (1 - share) * global_BC.unsqueeze(1)
        mean = token_divergence(
            student_BPC.flatten(0, 1),
            target_BPC.flatten(0, 1),
            distillation_type=self.params.spatial_type,
            temperature=self.params.temperature,
            reduction="sample",
        )
        is_sum = self.params.spatial_type == "soft" and self.params.reduction == "official"
        return mean * student_BPC.shape[1] if is_sum else mean

    def _token_term(self, student: Tensor, teacher: Tensor) -> Tensor:
        return token_divergence(
            student,
            teacher,
            distillation_type=self.params.token_type,
            temperature=self.params.temperature,
            reduction="element" if self.params.reduction == "official" else "sample",
        )


def local_predictions(head: nn.Module, last: Feature | None) -> Feature:
    """Apply a linear head at every position of the last features: a feature of C channels, in float32."""
    assert last is not None
    assert isinstance(head, nn.Linear | nn.Conv2d)
    return Feature(F.linear(last.tokens.float(), head.weight.flatten(1), head.bias), last.grid)


def local_share(decay: str, fraction: float) -> float:
    """Share of the local prediction in the target, from 1 to 0, after ``fraction`` of the training."""
    if decay == "quadratic":
        return (1 - fraction) ** 2
    return math.cos(math.pi / 2 * fraction) if decay == "cosine" else 1 - fraction


def _check_teacher(teacher: BuiltModel, structure: ModelStructure) -> None:
    """Raise ``InvalidSpec`` unless the logits are one linear layer of the mean of a map with several positions."""
    last, name = structure.last, structure.architecture
    if last is None or not _ends_in_mean_and_linear(teacher, last):
        raise invalid_architecture(
            "teachers/0",
            f"cumulative_spatial applies the teacher's classifier at every position, which needs global average "
            f"pooling followed by one linear layer, and {name} has another head; use a ResNet, RegNet or EfficientNet, "
            "or method deit",
        )
    if last.tokens == 1:
        raise invalid_architecture(
            "teachers/0",
            f"the last map of {name} has a single position for images of {teacher.preprocessing.image_size} pixels, so "
            "it has no local predictions; use larger images, a teacher with a smaller stride (such as a ResNet with "
            '{"output_stride": 8} as its arguments), or method deit',
        )


def _ends_in_mean_and_linear(teacher: BuiltModel, last: FeatureLevel) -> bool:
    module = build_on_meta(teacher.architecture, teacher.arguments).eval()
    called: list[nn.Module] = []
    leaves = [layer for layer in module.modules() if not list(layer.children())]
    hooks = [layer.register_forward_pre_hook(lambda layer, _inputs: called.append(layer)) for layer in leaves]
    try:
        module.forward_head(torch.empty(2, last.width, *last.grid, device="meta"))  # type: ignore[operator]
    except (AttributeError, RuntimeError, TypeError):
        return False
    finally:
        for hook in hooks:
            hook.remove()
    others = [layer for layer in called if type(layer).__name__ not in _POOLING_LAYERS]
    head = others[0] if len(others) == 1 else None
    is_linear = isinstance(head, nn.Linear) or (isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1))
    return is_linear and head is module.get_classifier()  # type: ignore[operator]
