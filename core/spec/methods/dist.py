"""Parameters of ``dist``: correlations instead of equality (Huang et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class DistParams(LogitParams):
    """Match how the teacher ranks the classes of a sample, and the samples of a class."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's probabilities correlate with the teacher's, over the classes of each sample and over "
        "the batch in each class.",
        paper="Knowledge Distillation from A Stronger Teacher, arXiv:2205.10536",
        year=2022,
        when="A teacher much stronger than the student, whose probabilities it cannot reach. Batches of 64 or more.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
    )
    name: Literal["dist"] = Field(description="The method's name.")
    beta: Weight = Field(default=2.0, description="Weight of the samples' correlation: 2 for CIFAR, 1 for ImageNet.")
    gamma: Weight = Field(default=2.0, description="Weight of the classes' correlation: 2 for CIFAR, 1 for ImageNet.")
    temperature: float = Field(
        default=4.0, gt=0, le=100, description="Softens both distributions: 4 for CIFAR, 1 for ImageNet."
    )
    label_weight: Weight = Field(default=1.0, description="Weight of the labels' cross-entropy.")
