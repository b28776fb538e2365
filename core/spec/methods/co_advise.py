"""Parameters of ``co_advise``: a token for each of several teachers (Ren et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class CoAdviseParams(MethodParams):
    """Give each teacher a token of the student's own, and average the heads."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="Each teacher advises a distillation token of its own; the class token learns from the labels.",
        paper="Co-advise: Cross Inductive Bias Distillation, arXiv:2106.12378",
        year=2022,
        when="Two or more teachers that err in different ways, such as a CNN and a transformer; light ones will do.",
        needs=Requirements(min_teachers=2, max_teachers=None, student_families=("transformer",)),
        caches=("logits",),
    )
    name: Literal["co_advise"] = Field(description="The method's name.")
    temperature: float = Field(default=1.0, gt=0, le=100, description="Softens teachers and tokens.")
    label_weight: Weight = Field(default=1.0, description="Weight of the labels' cross-entropy.")
    teacher_weights: tuple[Weight, ...] | None = Field(
        default=None,
        max_length=8,
        description="Weight of each teacher's term, in their order; not scaled. Null: 1 each, as in the paper.",
    )
    stem: Literal["patch", "co_advise"] = Field(
        default="patch",
        description="`patch` is the ViT's own stem, with a learned token for each teacher. `co_advise` is the paper's: "
        "a convolution stem for the first teacher and an involution stem for the second, whose means are the tokens.",
    )
