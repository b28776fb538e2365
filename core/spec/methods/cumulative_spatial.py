"""Parameters of ``cumulative_spatial``: a CNN's predictions at every position (Zhao et al. 2023)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class CumulativeSpatialParams(MethodParams):
    """Patch tokens learn a CNN's predictions at their positions; a distillation token learns its global prediction."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Patch tokens learn the CNN teacher's predictions at their positions: local predictions at first, the "
        "global prediction towards the end. A distillation token always learns the global prediction.",
        paper="Cumulative Spatial Knowledge Distillation for Vision Transformers, arXiv:2307.08500",
        year=2023,
        when="ViT student and a CNN teacher that ends in global average pooling and one linear layer, such as a "
        "ResNet or RegNet.",
        needs=Requirements(
            student=("logits", "distillation token", "patch tokens"),
            teacher=("logits", "last map"),
            student_families=("transformer",),
            teacher_families=("cnn",),
        ),
        caches=("logits", "last"),
    )
    name: Literal["cumulative_spatial"] = Field(description="The method's name.")
    alpha: float = Field(
        default=0.5, ge=0, le=1, description="Weight of the distillation token's term; the labels have 1 − alpha."
    )
    weight: Weight = Field(default=1.0, description="Weight of the patch tokens' term.")
    token_type: Literal["soft", "hard"] = Field(
        default="hard",
        description="Target of the distillation token: the teacher's decision (`hard`), or its softened probabilities "
        "(`soft`).",
    )
    spatial_type: Literal["soft", "hard"] = Field(
        default="hard", description="Target of the patch tokens at every position, as for `token_type`."
    )
    decay: Literal["linear", "quadratic", "cosine"] = Field(
        default="linear",
        description="Decay of the local prediction's share (α(t) in the paper) from 1 to 0 over the training.",
    )
    temperature: float = Field(
        default=1.0, gt=0, le=100, description="Temperature T that softens both distributions; used only with `soft`."
    )
