"""Parameters of ``manifold``: fine-grained manifold distillation (Hao et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams, Weight


class ManifoldParams(LayeredParams):
    """Match the cosines between patches; the defaults are the authors' recipe, which leaves out the labels."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The cosines between the student's patches, in an image and across the batch, match the teacher's.",
        paper="Learning Efficient Vision Transformers via Fine-Grained Manifold Distillation, arXiv:2107.01378",
        year=2022,
        when="ViT teacher and student with the same grid of patches; widths and depths may differ, and nothing is "
        "added to the student.",
        needs=Requirements(
            teacher=("logits", "levels"),
            student=("logits", "levels"),
            student_families=("transformer",),
            teacher_families=("transformer",),
        ),
        caches=("levels", "logits"),
    )
    name: Literal["manifold"] = Field(description="The method's name.")
    label_weight: Weight = Field(
        default=0.0,
        description="Weight of the cross-entropy with the labels; the authors' recipe leaves it out.",
    )
    temperature: float | None = Field(
        default=1.0, gt=0, le=100, description="Temperature of the logit term. Null: that method's own default."
    )
    patch_weight: Weight = Field(
        default=4.0, description="Weight α of the intra-image term: cosines among the patches of an image."
    )
    sample_weight: Weight = Field(
        default=0.1, description="Weight β of the inter-image term: cosines among the images at one patch position."
    )
    random_weight: Weight = Field(
        default=0.2, description="Weight γ of the random term: cosines among patches drawn from the batch."
    )
    num_random: int | None = Field(
        default=None,
        ge=1,
        le=8192,
        description="Number K of patches drawn from the batch at each step. Null: 192, or all patches of a smaller "
        "batch.",
    )
