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
        formula="label_weight · CE(student, labels) + logits_weight · the term of `logits` + weight · mean over pairs "
        "of the distance. `attention`: ‖q(student's map) − q(teacher's map)‖² per image, q the map of the channels' "
        "mean of f^p, scaled to unit length. `selectivity`: the squared maximum mean discrepancy of the channels' "
        "unit maps, kernel (a · b)².",
        deviations=(
            (
                "The squared distance of two maps is a sum over positions. The paper's code takes the mean: its "
                "weight, divided by the number of positions, is the weight here."
            ),
            (
                "The default for `attention` is the paper's 1000, converted in this way: its recipe for CIFAR has "
                "three pairs, of 32 × 32, 16 × 16 and 8 × 8 positions, and 1000 · (1/1024 + 1/256 + 1/64) = 20.5. The "
                "default for `selectivity` is the CNN literature's 50 for each of three pairs. Neither is tuned; with "
                "few images or a short training, try smaller ones."
            ),
            "Terms are averaged over the pairs, so that the weight does not depend on their number.",
            (
                "On a ViT the map consists of the patch tokens of the residual stream, without prefix tokens. Levels "
                "with a single position are left out."
            ),
            "The paper's code has no logit term: `logits` `none`.",
        ),
    )
    name: Literal["attention_transfer"] = Field(description="The method's name.")
    weight: Weight | None = Field(  # type: ignore[assignment]  # null is only here a value of the statistic
        default=None,
        description="Weight of the distance, averaged over the pairs. Null: 20.5 for `attention`, the paper's 1000 "
        "converted from means to sums over positions, and 150 for `selectivity`, the literature's 50 for each of "
        "three pairs.",
    )
    statistic: Literal["attention", "selectivity"] = Field(
        default="attention",
        description="`attention`: the strength at each position. `selectivity`: the distribution of the channels' "
        "maps (NST, arXiv:1707.01219).",
    )
    power: int = Field(
        default=2,
        ge=1,
        le=8,
        description="Power p of the features whose mean over channels is the strength; used only with `attention`.",
    )
