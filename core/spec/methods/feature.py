"""Parameters of ``feature``: a foundation model's embeddings, without labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class FoundationParams(MethodParams):
    """Match a foundation model's embeddings of pictures whose labels are never read; the student has no classifier."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="The student matches the embedding and the patch features of a foundation model, on pictures whose "
        "labels are never read. What is exported is a backbone without a classifier.",
        paper="AM-RADIO: Agglomerative Vision Foundation Model, arXiv:2312.06709",
        year=2024,
        when="Many pictures without labels and a teacher such as DINOv2 or CLIP; the small backbone is for search, or "
        "for later training.",
        needs=Requirements(
            teacher=("embedding", "last features"), student=("embedding", "last features"), labels=False, headless=True
        ),
        caches=("embedding", "last"),
    )
    name: Literal["feature"] = Field(description="The method's name.")
    embedding_weight: Weight = Field(
        default=1.0,
        description="Weight of 1 − cosine between the embeddings, that is, of what a classifier would read.",
    )
    patch_weight: Weight = Field(
        default=1.0,
        description="Weight of the smooth L1 distance between the last patch features, the teacher's standardised.",
    )
