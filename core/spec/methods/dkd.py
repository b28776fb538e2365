"""Parameters of ``dkd``: decoupled distillation (Zhao et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class DkdParams(LogitParams):
    """Match the teacher's view of the label's class and of the other classes apart."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="The teacher's confidence in the right class and its ranking of the others are two terms with "
        "weights of their own.",
        paper="Decoupled Knowledge Distillation, arXiv:2203.08679",
        year=2022,
        when="A confident teacher: what it says of the wrong classes would drown in plain kd.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
    )
    name: Literal["dkd"] = Field(description="The method's name.")
    alpha: Weight = Field(default=1.0, description="Weight of the divergence in the label's class against the rest.")
    beta: Weight = Field(
        default=1.0,
        description="Weight of the divergence among the other classes: 8 in the paper for CIFAR-100, 0.5 for ImageNet. "
        "With few pictures 8 drowns the labels (docs/quality.md).",
    )
    temperature: float = Field(
        default=4.0, gt=0, le=100, description="Softens both distributions: 4 for CIFAR, 1 for ImageNet."
    )
    label_weight: Weight = Field(default=1.0, description="Weight of the labels' cross-entropy.")
    warmup_epochs: float | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="The distillation term grows to its weight over so many epochs. Null: a twelfth of the training, "
        "as the paper's 20 of 240 epochs on CIFAR; 20 would be the whole of a short training.",
    )
