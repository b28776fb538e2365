"""Parameters of ``review``: knowledge review (Chen et al. 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams


class ReviewParams(LayeredParams):
    """Fuse deep levels of the student into shallow ones, and match the teacher's levels."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="From the deepest level to the first, the student's features are fused with those of the next deeper "
        "level, and each fusion matches the teacher's features on several scales.",
        paper="Distilling Knowledge via Knowledge Review, arXiv:2104.09044",
        year=2021,
        when="CNNs and other networks with stages, for which it is among the best feature methods.",
        needs=Requirements(teacher=("logits", "levels", "embedding"), student=("logits", "levels", "embedding")),
        caches=("levels", "embedding", "logits"),
    )
    name: Literal["review"] = Field(description="The method's name.")
    warmup_epochs: float = Field(
        default=0.0,
        ge=0,
        le=10_000,
        description="Number of epochs over which the feature terms grow linearly from 0 to their weight; the paper has "
        "20 of 240.",
    )
    width: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Number of channels of the fused features. Null: the width of the student's embedding, at most "
        "512.",
    )
