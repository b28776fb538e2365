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
    )
    name: Literal["vid"] = Field(description="The method's name.")
    initial_variance: float = Field(default=5.0, ge=1e-3, le=1e4, description="Initial variance σ² of every channel.")
