"""Parameters of ``cross_architecture``: from a transformer to a CNN (Liu et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams, LogitTerm, Weight


class CrossArchitectureParams(LayeredParams):
    """Project a CNN's features into a ViT's attention space and token space."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="The CNN student's features are projected to queries, keys and values and to tokens that match the "
        "ViT teacher's, under random views, with a discriminator between the two.",
        paper="Cross-Architecture Knowledge Distillation, arXiv:2207.05273",
        year=2022,
        when="ViT teacher, CNN student.",
        needs=Requirements(
            student=("logits", "levels"),
            teacher=("logits", "levels", "attention"),
            student_families=("cnn",),
            teacher_families=("transformer",),
        ),
        caches=("levels", "attentions", "logits"),
    )
    name: Literal["cross_architecture"] = Field(description="The method's name.")
    logits: LogitTerm = Field(
        default="none",
        description="The logit method that is added, with its own defaults; the paper has `none`.",
    )
    attention_weight: Weight = Field(default=1.0, description="Weight of the partially cross attention projector.")
    projection_weight: Weight = Field(default=1.0, description="Weight of the group-wise linear projector.")
    adversarial_weight: Weight = Field(
        default=0.1,
        description="Weight of the student's term against the discriminator; 0 leaves the discriminator out. "
        "The paper's value could not be confirmed.",
    )
    teacher_share: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Chance of each of query, key and value of a picture to be the teacher's instead of the student's.",
    )
    group_size: int = Field(
        default=4, ge=1, le=64, description="Side of the square of patches that share one linear layer."
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout in the group-wise linear projector.")
    view_probability: float = Field(
        default=0.5, ge=0, le=1, description="Chance of a picture to be shown to the student in another view."
    )
    max_rotation: float = Field(default=15.0, ge=0, le=180, description="Rotation of a view at most, in degrees.")
    min_crop: float = Field(default=0.7, gt=0, le=1, description="Side of a view's crop at least, as a share.")
    mask_share: float = Field(
        default=0.1, ge=0, lt=1, description="Share of a view's patches that are blanked, each by chance."
    )
