"""Parameters of ``cumulative_spatial``: a CNN's predictions place by place (Zhao et al. 2023)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class CumulativeSpatialParams(MethodParams):
    """Patch tokens learn what a CNN predicts at their place, a distillation token what it predicts of the whole."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="Patch tokens learn the CNN teacher's predictions at their places, first the local ones, towards the "
        "end the global one; a distillation token learns the global one all along.",
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
        default=0.5, ge=0, le=1, description="Weight of the distillation token; the labels weigh 1 − alpha."
    )
    weight: Weight = Field(default=1.0, description="Weight of the patch tokens' term.")
    token_type: Literal["soft", "hard"] = Field(
        default="hard",
        description="What the distillation token learns: the teacher's decision (`hard`), or its softened "
        "probabilities (`soft`).",
    )
    spatial_type: Literal["soft", "hard"] = Field(
        default="hard", description="The same choice for the patch tokens, at every place."
    )
    decay: Literal["linear", "quadratic", "cosine"] = Field(
        default="linear", description="How the share of the local prediction falls from 1 to 0 over the training."
    )
    temperature: float = Field(
        default=1.0, gt=0, le=100, description="Softens both distributions; used by `soft` alone."
    )
