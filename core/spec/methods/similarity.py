"""Parameters of ``similarity``: similarity-preserving distillation (Tung and Mori 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import FeatureParams, Weight


class SimilarityParams(FeatureParams):
    """Match the similarities between the samples of a batch."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Samples of a batch with similar features in the teacher have similar features in the student.",
        paper="Similarity-Preserving Knowledge Distillation, arXiv:1907.09682",
        year=2019,
        when="Networks of different widths or families, because nothing is projected. The term depends on the batch "
        "size.",
        needs=Requirements(teacher=("logits", "embedding"), student=("logits", "embedding")),
        caches=("embedding", "last", "logits"),
    )
    name: Literal["similarity"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=3000.0,
        description="Weight γ of the term; 3000 in the literature, because the mean over the batch's pairs is small.",
    )
    features: Literal["embedding", "last"] = Field(
        default="embedding",
        description="Features to compare: `embedding`, the classifier's input; `last`, all positions of the last "
        "features, as in the paper.",
    )
