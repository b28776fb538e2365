"""Parameters of ``review``: knowledge review (Chen et al. 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams


class ReviewParams(LayeredParams):
    """Let deep layers of the student help to learn the teacher's shallow ones."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="From the deepest level to the first, the student's features are fused with those of the level behind, "
        "and each fusion matches the teacher's features on several scales.",
        paper="Distilling Knowledge via Knowledge Review, arXiv:2104.09044",
        year=2021,
        when="CNNs and other networks with stages, where it is among the best feature methods.",
        needs=Requirements(teacher=("logits", "levels", "embedding"), student=("logits", "levels", "embedding")),
        caches=("levels", "embedding", "logits"),
    )
    name: Literal["review"] = Field(description="The method's name.")
    warmup_epochs: float = Field(
        default=0.0,
        ge=0,
        le=10_000,
        description="The feature terms grow from 0 to their weight over so many epochs; the paper takes 20 of its 240.",
    )
    width: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Width of the fused features. Null: that of the student's embedding, 512 at most.",
    )
