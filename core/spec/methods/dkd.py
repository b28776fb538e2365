"""Parameters of ``dkd``: decoupled distillation (Zhao et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class DkdParams(LogitParams):
    """Match the teacher on the target class and on the other classes separately."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The teacher's confidence in the target class and its distribution over the other classes are two "
        "terms with separate weights.",
        paper="Decoupled Knowledge Distillation, arXiv:2203.08679",
        year=2022,
        when="A confident teacher, whose probabilities of the other classes have almost no influence in plain kd.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
    )
    name: Literal["dkd"] = Field(description="The method's name.")
    alpha: Weight = Field(
        default=1.0, description="Weight α of the divergence of the target class against the rest (TCKD)."
    )
    beta: Weight = Field(
        default=1.0,
        description="Weight β of the divergence among the other classes (NCKD): 8 in the paper for CIFAR-100, 0.5 for "
        "ImageNet. With few images 8 dominates the labels (docs/quality.md).",
    )
    temperature: float = Field(
        default=4.0,
        gt=0,
        le=100,
        description="Temperature T that softens both distributions: 4 for CIFAR, 1 for ImageNet.",
    )
    label_weight: Weight = Field(default=1.0, description="Weight of the cross-entropy with the labels.")
    warmup_epochs: float | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Number of epochs over which the distillation term grows to its weight. Null: a twelfth of the "
        "training, like the paper's 20 of 240 epochs on CIFAR; 20 epochs can be an entire short training.",
    )
