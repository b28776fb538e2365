"""Parameters of ``cross_architecture``: from a transformer to a CNN (Liu et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams, LogitTerm, Weight


class CrossArchitectureParams(LayeredParams):
    """Project a CNN's features into a ViT's attention space and token space."""

    info: ClassVar[MethodInfo] = MethodInfo(
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
        description="Logit method that is added as a term, with its own defaults; the paper has `none`.",
    )
    attention_weight: Weight = Field(
        default=1.0, description="Weight of the partially cross attention projector (L_proj1)."
    )
    projection_weight: Weight = Field(default=1.0, description="Weight of the group-wise linear projector (L_proj2).")
    adversarial_weight: Weight = Field(
        default=0.1,
        description="Weight λ of the student's adversarial term; 0 removes the discriminator. The paper's value could "
        "not be confirmed.",
    )
    teacher_share: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Probability p, for each of an image's query, key and value, that the teacher's replaces the "
        "student's.",
    )
    group_size: int = Field(
        default=4, ge=1, le=64, description="Side, in patches, of the square groups that share one linear layer."
    )
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout probability in the group-wise linear projector."
    )
    view_probability: float = Field(
        default=0.5, ge=0, le=1, description="Probability that the student sees a random view of an image."
    )
    max_rotation: float = Field(default=15.0, ge=0, le=180, description="Maximum rotation of a view, in degrees.")
    min_crop: float = Field(
        default=0.7, gt=0, le=1, description="Minimum side of a view's crop, as a fraction of the image's side."
    )
    mask_share: float = Field(
        default=0.1, ge=0, lt=1, description="Probability of each patch of a view to be masked (gray)."
    )
