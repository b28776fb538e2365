"""Parameters of ``crd``: contrastive representation distillation (Tian et al. 2020)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import FeatureParams, Weight


class CrdParams(FeatureParams):
    """Tell a sample's pair of embeddings from pairs with other samples."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's embedding of a sample is close to the teacher's of the same sample and far from the "
        "teacher's of many others, which are kept in a memory.",
        paper="Contrastive Representation Distillation, arXiv:1910.10699",
        year=2019,
        when="A student whose embedding is used later, and a training split that is not huge: two embeddings a "
        "sample are kept, also in each checkpoint.",
        needs=Requirements(teacher=("logits", "embedding"), student=("logits", "embedding")),
        caches=("embedding", "logits"),
    )
    name: Literal["crd"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=0.2,
        description="Weight of the contrastive term: 0.8 in the paper's recipe for CIFAR-100, with 50,000 pictures; "
        "with few of them less is more (docs/quality.md).",
    )
    width: int = Field(default=128, ge=2, le=2048, description="Width that both embeddings are projected to.")
    negatives: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Other samples that each one is contrasted with. Null: 16384 as in the paper, or all others of a "
        "smaller training split.",
    )
    other_classes: bool = Field(
        default=True,
        description="Contrast with samples of other classes alone, as far as the classes were seen already.",
    )
    contrast_temperature: float = Field(default=0.07, ge=0.02, le=10, description="Divides the similarities.")
    momentum: float = Field(
        default=0.5, ge=0, lt=1, description="How much of a sample's old embedding stays when it is seen again."
    )
