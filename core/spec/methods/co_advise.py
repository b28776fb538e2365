"""Parameters of ``co_advise``: one distillation token per teacher (Ren et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class CoAdviseParams(MethodParams):
    """Give each teacher its own distillation token, and average all heads."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Each teacher has its own distillation token in the student; the class token learns from the labels.",
        paper="Co-advise: Cross Inductive Bias Distillation, arXiv:2106.12378",
        year=2022,
        when="Two or more teachers with different errors, such as a CNN and a transformer; small teachers suffice.",
        needs=Requirements(min_teachers=2, max_teachers=None, student_families=("transformer",)),
        caches=("logits",),
    )
    name: Literal["co_advise"] = Field(description="The method's name.")
    temperature: float = Field(default=1.0, gt=0, le=100, description="Temperature T that softens teachers and tokens.")
    label_weight: Weight = Field(default=1.0, description="Weight of the cross-entropy with the labels.")
    teacher_weights: tuple[Weight, ...] | None = Field(
        default=None,
        max_length=8,
        description="Weight of each teacher's term, in the order of `teachers`; not scaled. Null: 1 each, as in the "
        "paper.",
    )
    stem: Literal["patch", "co_advise"] = Field(
        default="patch",
        description="`patch`: the ViT's own stem, with a learned token per teacher. `co_advise`: the paper's stems, a "
        "convolution for the first teacher and an involution for the second, whose means are the tokens.",
    )
