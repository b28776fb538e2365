"""Parameters of ``kd``: soft labels (Hinton et al. 2015)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams


class KdParams(LogitParams):
    """Match the teacher's softened class probabilities."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student matches the teacher's class probabilities, softened by a temperature.",
        paper="Distilling the Knowledge in a Neural Network, arXiv:1503.02531",
        year=2015,
        when="The default choice: any teacher and any student, cheap and hard to beat.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
    )
    name: Literal["kd"] = Field(description="The method's name.")
    temperature: float = Field(default=4.0, gt=0, le=100, description="Temperature T that softens both distributions.")
    alpha: float = Field(
        default=0.9, ge=0, le=1, description="Weight of the teacher's soft labels; the labels have 1 − alpha."
    )
    reduction: Literal["sample", "element"] = Field(
        default="sample",
        description="`sample` divides the divergence by the batch size, `element` by batch size times number of "
        "classes.",
    )
