"""Parameters of ``dist``: correlation of probabilities instead of equality (Huang et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class DistParams(LogitParams):
    """Match the teacher's ranking of the classes of a sample, and of the samples of a class."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's probabilities correlate with the teacher's, over the classes of each sample and over "
        "the samples of the batch for each class.",
        paper="Knowledge Distillation from A Stronger Teacher, arXiv:2205.10536",
        year=2022,
        when="A teacher much stronger than the student, which cannot match its probabilities. Batches of 64 or more.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
    )
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {"label_weight": (0.0,)}
    name: Literal["dist"] = Field(description="The method's name.")
    beta: Weight = Field(
        default=2.0,
        description="Weight β of the correlation between classes of a sample: 2 for CIFAR, 1 for ImageNet.",
    )
    gamma: Weight = Field(
        default=2.0,
        description="Weight γ of the correlation between samples of a class: 2 for CIFAR, 1 for ImageNet.",
    )
    temperature: float = Field(
        default=4.0,
        gt=0,
        le=100,
        description="Temperature τ that softens both distributions: 4 for CIFAR, 1 for ImageNet.",
    )
    label_weight: Weight = Field(default=1.0, description="Weight of the cross-entropy with the labels.")
