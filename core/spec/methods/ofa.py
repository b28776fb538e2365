"""Parameters of ``ofa``: one-for-all distillation through exits (Hao et al. 2023)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class OfaParams(LogitParams):
    """Add an exit to each stage of the student, and match each exit with the teacher's logits."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Early exits at four stages of the student match the teacher's logits, with an emphasis on the target "
        "class. The exits are not exported.",
        paper="One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation, "
        "arXiv:2310.19444",
        year=2023,
        when="Teacher and student of different families, whose inner features cannot be compared.",
        needs=Requirements(max_teachers=None, student=("logits", "levels")),
        caches=("logits",),
        formula="label_weight · CE(student, labels) + weight · L(student) + exit_weight · Σ over exits of L(exit). "
        "L(z) = −mean over the batch of Σ over classes of ((p + m)^γ − m) · log softmax(z / T), with p the teacher's "
        "probabilities at temperature T and m 1 for the target class, else 0.",
        deviations=(
            "log-softmax replaces the logarithm of probabilities, which can be 0 in half precision.",
            (
                "Stages are found by relative depth; the official code lists them by name of model. One epsilon holds "
                "for all exits and the student's own logits; the official code takes one for each."
            ),
            (
                "An exit on tokens keeps its level's width; the official one has the width of the last stage, which "
                "differs for a student with stages, such as a Swin. Grids are merged to 7 to 13 tokens a side, odd "
                "ones after padding."
            ),
            "Mixed images count as their most probable class, as in the official code.",
        ),
    )
    name: Literal["ofa"] = Field(description="The method's name.")
    epsilon: float = Field(
        default=1.0,
        ge=1,
        le=10,
        description="Exponent γ of the target class's probability: above 1 the target class counts more, in "
        "proportion to the teacher's confidence; 1 is plain kd.",
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="Temperature T that softens both distributions.")
    weight: Weight = Field(default=1.0, description="Weight of the teacher's term for the student's own logits.")
    exit_weight: Weight = Field(default=1.0, description="Weight of each exit's term.")
    label_weight: Weight = Field(default=1.0, description="Weight of the cross-entropy with the labels.")
    stages: tuple[Annotated[int, Field(ge=0, le=1000)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="Levels of the student with an exit, counted from 0 in ascending order. Null: a ViT's blocks at "
        "1/6, 1/3, 5/6 and the end of its depth (1, 3, 9 and 11 of 12), the last four stages of other models.",
    )

    @field_validator("stages")
    @classmethod
    def _rising(cls, stages: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if stages is not None and list(stages) != sorted(set(stages)):
            raise PydanticCustomError("stages", "give each level once, from the first to the last")
        return stages
