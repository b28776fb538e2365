"""Parameters of ``crd``: contrastive representation distillation (Tian et al. 2020)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import FeatureParams, Weight


class CrdParams(FeatureParams):
    """Distinguish the embeddings of one sample in both networks from pairs of different samples."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's embedding of a sample is close to the teacher's of the same sample, and far from the "
        "teacher's of many other samples, which are stored in a memory bank.",
        paper="Contrastive Representation Distillation, arXiv:1910.10699",
        year=2019,
        when="A student whose embedding is used later, and a training split of moderate size: two embeddings per "
        "sample are stored in memory and in each checkpoint.",
        needs=Requirements(teacher=("logits", "embedding"), student=("logits", "embedding")),
        caches=("embedding", "logits"),
    )
    name: Literal["crd"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=0.2,
        description="Weight of the contrastive term (β in the paper). The paper's recipe for CIFAR-100, with 50,000 "
        "images, has 0.8; with few images a smaller weight is better (docs/quality.md).",
    )
    width: int = Field(default=128, ge=2, le=2048, description="Number of channels of the projected embeddings.")
    negatives: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Number N of other samples that each sample is contrasted with. Null: 16384 as in the paper, or "
        "all other samples of a smaller training split.",
    )
    other_classes: bool = Field(
        default=True,
        description="Contrast only with samples of other classes, as far as their classes have been seen in training.",
    )
    contrast_temperature: float = Field(
        default=0.07, ge=0.02, le=10, description="Temperature τ that divides the similarities."
    )
    momentum: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Weight of a sample's stored embedding when a new one is averaged in, 0 to 1.",
    )
