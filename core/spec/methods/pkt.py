"""Parameters of ``pkt``: probabilistic knowledge transfer (Passalis and Tefas 2018)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import FeatureParams, Weight


class PktParams(FeatureParams):
    """Match the probability of each sample of a batch to be another's neighbor."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Each sample's distribution over its neighbors in the batch is the same for student and teacher.",
        paper="Learning Deep Representations with Probabilistic Knowledge Transfer, arXiv:1803.10837",
        year=2018,
        when="Networks of different widths or families, because nothing is projected. The term depends on the batch "
        "size.",
        needs=Requirements(teacher=("logits", "embedding"), student=("logits", "embedding")),
        caches=("embedding", "logits"),
    )
    name: Literal["pkt"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=30_000.0,
        description="Weight of the term; 30000 in the literature, because the mean over the batch's pairs of "
        "probabilities is very small.",
    )
