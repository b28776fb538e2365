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
    )
    name: Literal["ofa"] = Field(description="The method's name.")
    epsilon: float = Field(
        default=1.0,
        ge=1,
        le=10,
        description="Exponent γ of the target class's probability: above 1 the target class counts more, in proportion "
        "to the teacher's confidence; 1 is plain kd.",
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
