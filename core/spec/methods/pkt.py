"""Parameters of ``pkt``: probabilistic knowledge transfer (Passalis and Tefas 2018)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import FeatureParams, Weight


class PktParams(FeatureParams):
    """Match how likely each sample of a batch is another's neighbour."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="Each sample's distribution over its neighbours in the batch is the same for student and teacher.",
        paper="Learning Deep Representations with Probabilistic Knowledge Transfer, arXiv:1803.10837",
        year=2018,
        when="Networks of unlike width or kind, as nothing is projected. Keep the batch size: the term depends on it.",
        needs=Requirements(teacher=("logits", "embedding"), student=("logits", "embedding")),
        caches=("embedding", "logits"),
    )
    name: Literal["pkt"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=30_000.0,
        description="Weight of the term; 30000 in the literature, as a mean over the batch's pairs of probabilities "
        "is tiny.",
    )
