"""Parameters of ``scratch``: training with labels only."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements


class ScratchParams(MethodParams):
    """Train with labels only, the baseline of every report."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student is trained with labels only, as the baseline for distillation.",
        paper="",
        year=1986,
        when="To know what the student reaches without a teacher.",
        needs=Requirements(min_teachers=0, max_teachers=0, teacher=()),
    )
    name: Literal["scratch"] = Field(description="The method's name.")
