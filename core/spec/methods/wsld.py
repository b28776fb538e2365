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
        formula="label_weight · CE(labels) + alpha · T² · mean over images of (1 − exp(−CE_s / CE_t)) · "
        "CE(softmax(z_t / T), softmax(z_s / T)), without a gradient to the image's weight; CE_s and CE_t are the "
        "cross-entropies of student and teacher with the label, at temperature 1. alpha is the paper's α: it weighs "
        "the soft labels in addition to the labels, whose weight stays 1. So alpha may exceed 1, unlike that of `kd`.",
        deviations=(
            "CE_t is increased by 1e-7, as in mdistiller's code.",
            "Mixed images count as their most probable class.",
        ),
    )
    name: Literal["wsld"] = Field(description="The method's name.")
    alpha: Weight = Field(
        default=2.25,
        description="Weight α of the soft labels: 2.25 for CIFAR-100, 2.5 for ImageNet. The labels have "
        "`label_weight`, not 1 − alpha.",
    )
    temperature: float = Field(
        default=4.0,
        gt=0,
        le=100,
        description="Temperature τ that softens both distributions: 4 for CIFAR, 2 for ImageNet.",
    )
    label_weight: Weight = Field(default=1.0, description="Weight of the cross-entropy with the labels.")
