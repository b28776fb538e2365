"""Parameters of ``attention_transfer``: spatial attention maps (Zagoruyko and Komodakis 2017)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams, Weight


class AttentionTransferParams(LayeredParams):
    """Match the positions of an image at which features are strong."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="At chosen layers the student's features are strong at the same positions of an image as the "
        "teacher's. Nothing is projected, so widths may differ.",
        paper="Paying More Attention to Attention, arXiv:1612.03928",
        year=2017,
        when="Networks of different widths, especially CNNs with stages; cheap, because no module is added.",
        needs=Requirements(teacher=("logits", "levels"), student=("logits", "levels")),
        caches=("levels", "logits"),
    )
    name: Literal["attention_transfer"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=50.0,
        description="Weight of the feature terms (β in the paper), summed over the pairs. The CNN literature has 1000 "
        "for `attention`, which harms a small ViT (docs/quality.md), and 50 for `selectivity`.",
    )
    statistic: Literal["attention", "selectivity"] = Field(
        default="attention",
        description="`attention`: the strength at each position. `selectivity`: the distribution of the channels' maps "
        "(NST, arXiv:1707.01219).",
    )
    power: int = Field(
        default=2,
        ge=1,
        le=8,
        description="Power p of the features whose mean over channels is the strength; used only with `attention`.",
    )
