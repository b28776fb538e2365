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
        formula="label_weight · CE(student, labels) + logits_weight · the term of `logits` + weight · sum over pairs "
        "of the mean of (G(mask · A(student's map)) − teacher's map)² over batch, channels and positions. A is a 1 × "
        "1 convolution, or nothing if the widths are equal; G is 3 × 3 convolution, ReLU and 3 × 3 convolution.",
        deviations=(
            (
                "The squared error is a mean over entries, so that one weight suits maps of all sizes. The official "
                "code sums over the C · H · W entries of a map: its weight, times C · H · W, is the weight here. The "
                "default is that of its CIFAR recipe, 0.0012 · 512 · 4 · 4 = 9.83; its ImageNet recipe, 7e-5 at 2048 "
                "× 7 × 7, is 7.02."
            ),
            "The paper masks positions; the official code for classification, and the default here, masks channels.",
            "The official code has no logit term: `logits` `none`.",
            (
                "On a ViT a map consists of the patch tokens of a level; maps of different grids are resampled to the "
                "coarser one. The official code needs equal grids."
            ),
        ),
    )
    name: Literal["mgd"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=9.83,
        description="Weight α of the squared error per entry. Multiply a weight of the official code, whose error is "
        "a sum, by channels · rows · columns of the map: 0.0012 · 512 · 4 · 4 = 9.83 on CIFAR.",
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
