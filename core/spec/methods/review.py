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
        formula="label_weight · CE(student, labels) + logits_weight · the term of `logits` + weight · warm-up · sum "
        "over levels of HCL(fused map, teacher's map). HCL is the mean squared error at full size and on pooled grids "
        "of 4, 2 and 1, each with half the previous weight, divided by the sum of the weights. The warm-up grows "
        "linearly from 0 to 1.",
        deviations=(
            (
                "The warm-up is the official 20 of 240 epochs as a fraction of the run, and grows with each step "
                "instead of each epoch."
            ),
            "The official weight is 1 to 5, chosen for each pair of networks; it is 1 here.",
            (
                "The official code takes the teacher's maps before their last activation; here they are those that "
                "timm returns. On a ViT, maps are patch tokens of the residual stream, without prefix tokens."
            ),
            "The official code has no logit term: `logits` `none`.",
        ),
    )
    name: Literal["review"] = Field(description="The method's name.")
    warmup_epochs: float | None = Field(  # type: ignore[assignment]  # null is only here a share of the run
        default=None,
        ge=0,
        le=10_000,
        description="Number of epochs over which the feature terms grow linearly from 0 to their weight. Null: a "
        "twelfth of the run, the paper's 20 of 240 epochs.",
    )
    width: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Number of channels of the fused features. Null: the width of the student's embedding, at most "
        "512.",
    )
