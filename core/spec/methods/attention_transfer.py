"""Parameters of ``attention_transfer``: where a network looks (Zagoruyko and Komodakis 2017)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams, Weight


class AttentionTransferParams(LayeredParams):
    """Match at which positions of a picture the features are strong."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="At chosen layers the student's features are strong at the same positions of a picture as the "
        "teacher's. Nothing is projected, so widths may differ.",
        paper="Paying More Attention to Attention, arXiv:1612.03928",
        year=2017,
        when="Networks of unlike width, most of all CNNs with stages; cheap, as no module is added.",
        needs=Requirements(teacher=("logits", "levels"), student=("logits", "levels")),
        caches=("levels", "logits"),
    )
    name: Literal["attention_transfer"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=50.0,
        description="Weight of the feature terms, summed over the pairs: 1000 in the CNN literature, for `attention`, "
        "which does a small ViT more harm than good (docs/quality.md); 50 for `selectivity`.",
    )
    statistic: Literal["attention", "selectivity"] = Field(
        default="attention",
        description="`attention`: the strength at each position. `selectivity`: how alike the channels' maps are "
        "distributed (NST, arXiv:1707.01219).",
    )
    power: int = Field(
        default=2, ge=1, le=8, description="Strength is the channels' mean to this power; used by `attention` alone."
    )
