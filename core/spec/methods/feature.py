"""Parameters of ``feature``: a foundation model's embeddings, without labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class FoundationParams(MethodParams):
    """Match a foundation model's embeddings without labels; the student has no classifier."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student matches the embedding and the patch features of a foundation model; labels are not read. "
        "The exported model is a backbone without a classifier.",
        paper="AM-RADIO: Agglomerative Vision Foundation Model, arXiv:2312.06709",
        year=2024,
        when="Many unlabeled images and a teacher such as DINOv2 or CLIP; the small backbone is used for search or "
        "later training.",
        needs=Requirements(
            teacher=("embedding", "last features"), student=("embedding", "last features"), labels=False, headless=True
        ),
        caches=("embedding", "last"),
    )
    name: Literal["feature"] = Field(description="The method's name.")
    embedding_weight: Weight = Field(
        default=1.0,
        description="Weight of 1 − cosine of the embeddings, which are the inputs of a classifier.",
    )
    patch_weight: Weight = Field(
        default=1.0,
        description="Weight of the smooth L1 distance between the last patch features; the teacher's are standardized.",
    )
