"""Parameters of ``nkd``: normalized distillation (Yang et al. 2023)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class NkdParams(LogitParams):
    """Weight the target class by the teacher's confidence, and match the normalized other classes."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The target class is weighted by the teacher's confidence in it; the probabilities of the other "
        "classes are normalized to a sum of 1 and matched.",
        paper="From Knowledge Distillation to Self-Knowledge Distillation, arXiv:2303.13005",
        year=2023,
        when="Like dkd, but without a warm-up; the logit term that ViTKD was published with.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
    )
    name: Literal["nkd"] = Field(description="The method's name.")
    gamma: Weight = Field(default=1.5, description="Weight γ of the other classes: 1.5 for CNNs, 1 for ViTs.")
    temperature: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="Temperature λ that softens the other classes; the target class is never softened.",
    )
    weight: Weight = Field(default=1.0, description="Weight of both terms together.")
    label_weight: Weight = Field(default=1.0, description="Weight of the cross-entropy with the labels.")
