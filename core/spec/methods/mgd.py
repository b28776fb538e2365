"""Parameters of ``mgd``: masked generative distillation (Yang et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams, Weight


class MgdParams(LayeredParams):
    """Generate the teacher's features from a masked part of the student's."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="A small network generates the teacher's complete features from the student's, of which a random part "
        "is masked.",
        paper="Masked Generative Distillation, arXiv:2205.01529",
        year=2022,
        when="If direct imitation of features, as in fitnets, limits the student.",
        needs=Requirements(teacher=("logits", "levels"), student=("logits", "levels")),
        caches=("levels", "logits"),
    )
    name: Literal["mgd"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=7e-5,
        description="Weight α of the squared error, which is summed over channels and positions. The default is the "
        "paper's for a ResNet-50 teacher at 224 pixels, about 100,000 entries per image; use proportionally more for "
        "smaller features.",
    )
    masked: float = Field(
        default=0.15,
        ge=0,
        lt=1,
        description="Masked fraction λ: 0.15 in the official code, whose documentation says 0.5.",
    )
    mask: Literal["channels", "positions"] = Field(
        default="channels",
        description="Mask entire channels, as in the official code for classification, or positions of the image.",
    )
