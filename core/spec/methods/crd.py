"""Parameters of ``crd``: contrastive representation distillation (Tian et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

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
        formula="label_weight · CE(student, labels) + logits_weight · the term of `logits` + weight · (NCE(student's "
        "vectors against the teacher's bank) + NCE(teacher's vectors against the student's bank)). With scores P = "
        "exp(cosine / contrast_temperature) / Z, c = N / (number of samples): NCE = −mean over the batch of (log P₊ / "
        "(P₊ + c) + Σ over N negatives of log c / (P + c)). Z is estimated on the first batch.",
        deviations=(
            (
                "weight is the paper's 0.8, for 50,000 images and 16,384 negatives, without a conversion: the term "
                "grows only with the logarithm of N, from 9 per direction with 2,000 negatives to 11 with 16,384. It "
                "is not tuned; with few images or a short training, try a smaller one."
            ),
            (
                "Negatives are drawn at each step with replacement, never the sample itself. The official code looks "
                "up samples of other classes; here, draws of a class already seen to be the sample's own are redrawn."
            ),
            (
                "Scores are computed with the entire bank before the drawn ones are selected, so that memory grows "
                "with the training split and not with negatives times width."
            ),
        ),
    )
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # classes decide which samples are contrasted
    name: Literal["crd"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=0.8,
        description="Weight of the contrastive term (β in the paper): 0.8 as in the paper's recipe for CIFAR-100.",
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
