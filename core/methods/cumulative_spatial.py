"""Cumulative spatial knowledge distillation (CSKD): patch tokens learn a CNN's predictions at their positions.

Paper: Zhao et al. 2023, arXiv:2307.08500. The teacher's classifier, applied at every position of its last map, gives
local predictions whose mean is its global prediction. The student is DeiT's, and its distillation head also reads the
patch tokens. They learn share · local + (1 − share) · global logits, where the share falls from 1 to 0 over the
training. The finer grid is averaged to the coarser one. As in the official code, the distillation head is shared by
token and patches, and the labels, the token and the patches weigh 1 − alpha, alpha and ``weight``.

Deviations: the soft spatial term is a mean over positions (a sum in the official code); the exported student averages
its two heads as DeiT does, while the official one also averages in the mean of the patches' predictions. Nothing is
dropped at export.

Shapes: B images, N student patches, P positions of the common grid, D width, C classes.
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
        """Timm's distilled ViT with the same arguments."""
        return StudentVariant("distilled")

    def prepare_student(self, student: nn.Module) -> None:
        """Make the student return both heads' logits in training mode, and store its distillation head.

        Raises ``SpecCannotRun`` for a student without a distillation token.
        """
        set_distilled_training = getattr(student, "set_distilled_training", None)
        head = getattr(student, "head_dist", None)
        if set_distilled_training is None or head is None:
            raise SpecCannotRun(
                f"cumulative_spatial needs a student with a distillation token, {type(student).__name__} has none; "
                "choose a ViT as student, or method kd"
            )
        set_distilled_training(True)
        self._token_head = (head,)

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
            "distillation": params.alpha * self._divergence(token_logits, teacher.logits, params.token_type),
            "spatial": params.weight * self.spatial(student, local, teacher.logits, share=share),
        }

    def spatial(self, student: Outputs, local: Feature, global_BC: Tensor, *, share: float) -> Tensor:
        """Divergence of the patches' predictions from the teacher's at their positions, mean over positions."""
        assert self._token_head is not None, "prepare_student comes first"
        predicted = local_predictions(self._token_head[0], student.last)
        grid = coarser_grid(predicted.grid, local.grid)
        student_BPC, local_BPC = resample(predicted, grid).tokens, resample(local, grid).tokens
        target_BPC = share * local_BPC + (1 - share) * global_BC.unsqueeze(1)
        return self._divergence(student_BPC.flatten(0, 1), target_BPC.flatten(0, 1), self.params.spatial_type)

    def _divergence(self, student: Tensor, teacher: Tensor, distillation_type: Literal["soft", "hard"]) -> Tensor:
        return token_divergence(
            student,
            teacher,
            distillation_type=distillation_type,
            temperature=self.params.temperature,
            reduction="sample",
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
    """Raise ``InvalidSpec`` unless the logits are one linear layer of the last map's mean."""
    if structure.last is not None and _ends_in_mean_and_linear(teacher, structure.last):
        return
    raise invalid_architecture(
        "teachers/0",
        f"cumulative_spatial applies the teacher's classifier at every position, which needs global average pooling "
        f"followed by one linear layer, and {structure.architecture} has another head; use a ResNet, RegNet or "
        "EfficientNet, or method deit",
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
