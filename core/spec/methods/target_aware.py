"""Parameters of ``target_aware``: knowledge distillation via the target-aware transformer (Lin et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams, Weight


class TargetAwareParams(LayeredParams):
    """Reconstruct each pixel of the teacher's last map from all pixels of the student's; defaults with a KD term."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Every pixel of the teacher's last feature map is reconstructed from the student's entire map, by "
        "attention.",
        paper="Knowledge Distillation via the Target-aware Transformer, arXiv:2205.10793",
        year=2022,
        when="Teacher and student with different receptive fields, such as different CNNs; the last maps should have "
        "more than a few pixels.",
        needs=Requirements(teacher=("logits", "last"), student=("logits", "last")),
        caches=("last", "logits"),
    )
    name: Literal["target_aware"] = Field(description="The method's name.")
    weight: Weight = Field(default=0.1, description="Weight ε of the feature term.")
    label_weight: Weight = Field(default=0.5, description="Weight of the cross-entropy with the labels.")
    logits_weight: Weight = Field(default=0.5, description="Weight of the logit term.")
    temperature: float | None = Field(
        default=1.0, gt=0, le=100, description="Temperature of the logit term. Null: that method's own default."
    )
    heads: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Number of attention heads; must divide the teacher's width.",
    )
