"""Parameters of ``vkd``: an orthogonal projection to the teacher's normalized feature (Miles et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class VkdParams(MethodParams):
    """Regress the teacher's normalized pooled feature through an orthogonal projection, and match its logits."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's pooled patch tokens, through an orthogonal projection, regress the teacher's normalized "
        "pooled feature; a distillation token learns from the teacher's logits.",
        paper="VkD: Improving Knowledge Distillation using Orthogonal Projections, arXiv:2403.06213",
        year=2024,
        when="ViT student and a strong teacher of any family, such as a RegNet; other students with `token: false`.",
        needs=Requirements(teacher=("logits", "last"), student=("logits", "last")),
        caches=("last", "logits"),
        formula="label_weight · cross-entropy(labels) + logits_weight · T² · KL(teacher ‖ distillation token) + "
        "weight · mean of smooth-L1(W s − N(t)). s is the mean of the student's patch tokens after the final norm, t "
        "that of the teacher (of a CNN: of its last map), N a layer norm without parameters, and W a matrix with "
        "orthonormal columns, or rows where the teacher is narrower.",
        deviations=(
            (
                "The published results (DeiT-Ti 78.3, DeiT-S 82.3 on ImageNet) have `stem: conv`, RegNetY-160 as "
                "teacher with the weights of the DeiT authors, 300 epochs, AdamW at 5e-4 without warm-up, mixup 0.8 "
                "and cutmix 1."
            ),
            (
                "W has no weight decay. In torch's parametrization by reflections, which the official code uses, any "
                "decay of the signs on the diagonal sets W to zero."
            ),
            "A W that is not square has no additional base matrix, whose size is the square of the larger width.",
            "The feature of a ViT teacher is the mean of its patch tokens; the paper's teachers are CNNs.",
            "With `standard` there is no trained scale and shift after W.",
        ),
    )
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {"label_weight": (0.0,), "token": (False,)}
    name: Literal["vkd"] = Field(description="The method's name.")
    weight: Weight = Field(default=1.0, description="Weight α of the feature's regression.")
    logits_weight: Weight = Field(default=1.0, description="Weight γ of the divergence from the teacher's logits.")
    temperature: float = Field(default=1.0, gt=0, le=100, description="Temperature T that softens both distributions.")
    label_weight: Weight = Field(default=1.0, description="Weight of the cross-entropy with the labels.")
    normalization: Literal["layer", "standard"] = Field(
        default="layer",
        description="`layer`: the teacher's feature is normalized over its channels, the student's is not; for "
        "classification. `standard`: both are standardized per channel over the batch; for detection in the paper.",
    )
    token: bool = Field(
        default=True,
        description="True: a distillation token of the ViT student learns from the teacher's logits. False: the class "
        "head learns from them too, with any student.",
    )
    stem: Literal["patch", "conv"] = Field(
        default="patch",
        description="`patch`: the student's own patch embedding, with a learned token. `conv`: the paper's four "
        "convolutions, whose mean is the distillation token's input; for ViT students. The published results have it.",
    )
