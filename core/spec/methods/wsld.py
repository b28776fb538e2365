"""Parameters of ``wsld``: soft labels weighted by sample (Zhou et al. 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class WsldParams(LogitParams):
    """Listen less to the teacher on samples that the student knows better."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="Soft labels count less on samples whose label the student finds easier than the teacher does.",
        paper="Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective, "
        "arXiv:2102.00650",
        year=2021,
        when="A teacher that is wrong now and then, so that the student is not taught its errors.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
    )
    name: Literal["wsld"] = Field(description="The method's name.")
    alpha: Weight = Field(default=2.25, description="Weight of the soft labels: 2.25 for CIFAR, 2.5 for ImageNet.")
    temperature: float = Field(
        default=4.0, gt=0, le=100, description="Softens both distributions: 4 for CIFAR, 2 for ImageNet."
    )
    label_weight: Weight = Field(default=1.0, description="Weight of the labels' cross-entropy.")
