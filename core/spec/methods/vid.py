"""Parameters of ``vid``: variational information distillation (Ahn et al. 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams


class VidParams(LayeredParams):
    """Predict the teacher's features, with a trained variance per channel."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's features predict the teacher's at chosen layers; a trained variance gives less weight "
        "to channels that cannot be predicted.",
        paper="Variational Information Distillation for Knowledge Transfer, arXiv:1904.05835",
        year=2019,
        when="Instead of fitnets, if some channels of the teacher are very large or cannot be predicted.",
        needs=Requirements(teacher=("logits", "levels"), student=("logits", "levels")),
        caches=("levels", "logits"),
        formula="label_weight · CE(student, labels) + logits_weight · the term of `logits` + weight · sum over pairs "
        "of the mean of ½ ((R(student's tokens) − teacher's tokens)² / σ² + log σ²) over batch, tokens and channels. "
        "R is three linear layers without bias, with a ReLU between them; σ² is trained for each channel.",
        deviations=(
            (
                "σ² starts at the mean squared error of each channel in the first batch, as the untrained R leaves "
                "it, and at no less than a hundredth of the channels' mean. The official code starts at 5: where "
                "channels have variances far below 1, the term is then nearly constant."
            ),
            "The variances are trained, as in the paper. A widely used copy of the code leaves them at their start.",
            (
                "Tokens are compared on the coarser of the two grids, without prefix tokens. On tokens, the official "
                "1 × 1 convolutions are linear layers."
            ),
            "The official code has no logit term: `logits` `none`.",
        ),
    )
    name: Literal["vid"] = Field(description="The method's name.")
    initial_variance: float | None = Field(
        default=None,
        ge=1e-3,
        le=1e4,
        description="Initial variance σ² of every channel; 5 in the official code. Null: each channel's mean squared "
        "error in the first batch, or in its first part with `gradient_accumulation`.",
    )
