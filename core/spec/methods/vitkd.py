"""Parameters of ``vitkd``: imitation of first blocks and generation of last tokens of ViTs (Yang et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams, LayerPair, Weight


class VitkdParams(LayeredParams):
    """Imitate the teacher's first blocks, and generate its last tokens from a masked part of the student's."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student imitates the tokens of the teacher's first blocks, and a small network generates the "
        "teacher's last tokens at positions where the student's are masked.",
        paper="ViTKD: Practical Guidelines for ViT feature knowledge distillation, arXiv:2209.02432",
        year=2022,
        when="ViT teacher and student, best in combination with a logit method; nkd in the paper.",
        needs=Requirements(
            teacher=("logits", "levels", "last"),
            student=("logits", "levels", "last"),
            student_families=("transformer",),
            teacher_families=("transformer",),
        ),
        caches=("levels", "last", "logits"),
        formula="label_weight · CE(student, labels) + logits_weight · the term of `logits` + weight · "
        "(imitation_weight · sum over pairs of the mean of (P(student's block) − teacher's block)² over batch, tokens "
        "and channels + generation_weight · the mean of (G(student's last tokens, masked) − teacher's last tokens)² "
        "over the masked tokens and channels). P is a linear layer, G is 3 × 3 convolution, ReLU and 3 × 3 "
        "convolution.",
        deviations=(
            (
                "Squared errors are means over entries, so that one weight suits ViTs of all sizes. The official code "
                "sums over tokens and channels, and divides the second sum by `masked`: its weights, times tokens · "
                "channels of the teacher, are the weights here. The defaults are those of its recipe for a teacher of "
                "196 tokens of width 384: 3e-5 · 196 · 384 = 2.26 and 3e-6 · 196 · 384 = 0.226."
            ),
            (
                "Prefix tokens are left out, and different grids are resampled to the coarser one; the official code "
                "needs equal grids."
            ),
            "`logits` is `kd` by default; the official code has no logit term, or nkd in its best result.",
        ),
    )
    name: Literal["vitkd"] = Field(description="The method's name.")
    layers: tuple[LayerPair, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Pairs [student block, teacher block] to imitate, counted from 0. Null: the first two blocks of "
        "both.",
    )
    imitation_weight: Weight = Field(
        default=2.26,
        description="Weight α of the imitated blocks' squared error per entry. Multiply a weight of the official "
        "code, whose error is a sum, by tokens · channels of the teacher: 3e-5 · 196 · 384 = 2.26.",
    )
    generation_weight: Weight = Field(
        default=0.226,
        description="Weight β of the generated tokens' squared error per masked entry: the official code's, times "
        "tokens · channels of the teacher, 3e-6 · 196 · 384 = 0.226.",
    )
    masked: float = Field(
        default=0.5, gt=0, lt=1, description="Fraction λ of the last tokens that is masked and generated."
    )
