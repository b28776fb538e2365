"""Parameters of ``auto``: the resolver replaces it by the first recommended method that the networks can run."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements

Compute = Literal["small", "medium", "large"]


class AutoParams(MethodParams):
    """Let the service choose the method. The job's resolved spec names the chosen one."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The first method of `GET /v1/methods/recommend` that student, teachers and dataset can run.",
        paper="",
        year=0,
        when="No method was chosen yet.",
        needs=Requirements(min_teachers=0, max_teachers=8, labels=False),
    )
    name: Literal["auto"] = Field(description="The method's name.")
    compute: Compute = Field(
        default="medium",
        description="Budget for a training step, relative to labels alone: `small` (up to 1.3 times), `medium` (up to "
        "2.5 times) or `large` (any).",
    )
