"""Parameters of ``vitkd``: guidelines for features of ViTs (Yang et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams, LayerPair, Weight


class VitkdParams(LayeredParams):
    """Imitate the teacher's first blocks, and generate its last tokens from a part of the student's."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="The student imitates the tokens of the teacher's first blocks, and a small network generates the "
        "teacher's last tokens at places where the student's are masked.",
        paper="ViTKD: Practical Guidelines for ViT feature knowledge distillation, arXiv:2209.02432",
        year=2022,
        when="ViT teacher and student, best together with a logit method; nkd in the paper.",
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
        description="Pairs of student and teacher block that are imitated, counted from 0. Null: the first "
        "two of both.",
    )
    imitation_weight: Weight = Field(
        default=3e-5,
        description="Weight of the imitated blocks' squared error, which is summed over tokens and channels: the "
        "paper's for a teacher of width 384 with 196 tokens. In proportion more for fewer.",
    )
    generation_weight: Weight = Field(
        default=3e-6,
        description="Weight of the generated tokens' squared error, which is summed as well and divided by `masked`.",
    )
    masked: float = Field(default=0.5, gt=0, lt=1, description="Part of the last tokens that is masked and generated.")
