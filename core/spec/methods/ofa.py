"""Parameters of ``ofa``: one-for-all distillation through exits (Hao et al. 2023)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class OfaParams(LogitParams):
    """Let each stage of the student answer for itself, and match each answer with the teacher's logits."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="Exits at four stages of the student answer for themselves, and each answer matches the teacher's "
        "logits, the right class counting more. The exits are left out of the finished student.",
        paper="One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation, "
        "arXiv:2310.19444",
        year=2023,
        when="Teacher and student of different kinds, whose inner features cannot be compared.",
        needs=Requirements(max_teachers=None, student=("logits", "levels")),
        caches=("logits",),
    )
    name: Literal["ofa"] = Field(description="The method's name.")
    epsilon: float = Field(
        default=1.0,
        ge=1,
        le=10,
        description="Above 1 the right class counts more, the more the surer the teacher is; 1 is plain kd.",
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="Softens both distributions.")
    weight: Weight = Field(default=1.0, description="Weight of the teacher for the student's own answer.")
    exit_weight: Weight = Field(default=1.0, description="Weight of each exit's term.")
    label_weight: Weight = Field(default=1.0, description="Weight of the labels' cross-entropy.")
    stages: tuple[Annotated[int, Field(ge=0, le=1000)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="Levels of the student that get an exit, counted from 0 and rising. Null: a ViT's blocks at 1/6, "
        "1/3, 5/6 and all of its depth (1, 3, 9 and 11 of 12), the last four stages of other models.",
    )

    @field_validator("stages")
    @classmethod
    def _rising(cls, stages: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if stages is not None and list(stages) != sorted(set(stages)):
            raise PydanticCustomError("stages", "give each level once, from the first to the last")
        return stages
