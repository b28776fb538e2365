"""Parameters of ``wsld``: soft labels with a weight per sample (Zhou et al. 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class WsldParams(LogitParams):
    """Reduce the weight of soft labels for samples that the student predicts better than the teacher."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Soft labels count less for samples whose label the student predicts better than the teacher.",
        paper="Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective, "
        "arXiv:2102.00650",
        year=2021,
        when="A teacher that is sometimes wrong, so that the student does not learn its errors.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
    )
    name: Literal["wsld"] = Field(description="The method's name.")
    alpha: Weight = Field(default=2.25, description="Weight α of the soft labels: 2.25 for CIFAR, 2.5 for ImageNet.")
    temperature: float = Field(
        default=4.0,
        gt=0,
        le=100,
        description="Temperature τ that softens both distributions: 4 for CIFAR, 2 for ImageNet.",
    )
    label_weight: Weight = Field(default=1.0, description="Weight of the cross-entropy with the labels.")
