"""Parameters of ``scratch``: the student learns from labels alone."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements


class ScratchParams(MethodParams):
    """Train with the labels alone: the baseline of every report."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="Train the student with labels alone, as the baseline that distillation has to beat.",
        paper="",
        year=1986,
        when="To know what the student reaches without a teacher.",
        needs=Requirements(min_teachers=0, max_teachers=0, teacher=()),
    )
    name: Literal["scratch"] = Field(description="The method's name.")
