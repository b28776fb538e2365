"""Parameters of ``similarity``: similarity-preserving distillation (Tung and Mori 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import FeatureParams, Weight


class SimilarityParams(FeatureParams):
    """Match which samples of a batch are alike."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="Samples of a batch that the teacher's features find alike are alike for the student's as well.",
        paper="Similarity-Preserving Knowledge Distillation, arXiv:1907.09682",
        year=2019,
        when="Networks of unlike width or kind, as nothing is projected. Keep the batch size: the term depends on it.",
        needs=Requirements(teacher=("logits", "embedding"), student=("logits", "embedding")),
        caches=("embedding", "last", "logits"),
    )
    name: Literal["similarity"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=3000.0,
        description="Weight of the term; 3000 in the literature, as a mean over the batch's pairs is small.",
    )
    features: Literal["embedding", "last"] = Field(
        default="embedding",
        description="What is compared: the embedding that the classifier reads, or all positions of the last features, "
        "as in the paper.",
    )
