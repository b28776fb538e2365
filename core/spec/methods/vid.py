"""Parameters of ``vid``: variational information distillation (Ahn et al. 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams


class VidParams(LayeredParams):
    """Predict the teacher's features and how sure the prediction is, channel by channel."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's features predict the teacher's at chosen layers; channels that cannot be predicted "
        "count less, by a variance that is learned.",
        paper="Variational Information Distillation for Knowledge Transfer, arXiv:1904.05835",
        year=2019,
        when="Instead of fitnets where some channels of the teacher are out of the student's reach or very large.",
        needs=Requirements(teacher=("logits", "levels"), student=("logits", "levels")),
        caches=("levels", "logits"),
    )
    name: Literal["vid"] = Field(description="The method's name.")
    initial_variance: float = Field(
        default=5.0, ge=1e-3, le=1e4, description="Variance of every channel before training."
    )
