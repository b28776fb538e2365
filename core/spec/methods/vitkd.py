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
        default=3e-5,
        description="Weight α of the imitated blocks' squared error, which is summed over tokens and channels. The "
        "default is the paper's for a teacher of width 384 with 196 tokens; use proportionally more for fewer.",
    )
    generation_weight: Weight = Field(
        default=3e-6,
        description="Weight β of the generated tokens' squared error, which is also summed, and divided by `masked`.",
    )
    masked: float = Field(
        default=0.5, gt=0, lt=1, description="Fraction λ of the last tokens that is masked and generated."
    )
