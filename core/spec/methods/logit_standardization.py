"""Parameters of ``logit_standardization``: one scale for all logits (Sun et al. 2024)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class LogitStandardizationParams(LogitParams):
    """Standardise both networks' logits in each sample before they are compared."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="Both networks' logits are brought to mean 0 and deviation 1 in each sample, so that the student "
        "matches the teacher's ranking and not its scale.",
        paper="Logit Standardization in Knowledge Distillation, arXiv:2403.01427",
        year=2024,
        when="A student far smaller than its teacher: it need not reach the size of the teacher's logits.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
    )
    name: Literal["logit_standardization"] = Field(description="The method's name.")
    base: Literal["kd", "dkd"] = Field(default="kd", description="What compares the standardised logits.")
    temperature: float = Field(
        default=2.0, gt=0, le=100, description="Softens the standardised logits, which are all of one scale."
    )
    weight: Weight = Field(default=9.0, description="Weight of the distillation.")
    label_weight: Weight | None = Field(
        default=None, description="Weight of the labels' cross-entropy. Null: 0.1 with base kd, 1 with base dkd."
    )
    alpha: Weight = Field(default=1.0, description="Base dkd alone: weight of the label's class against the rest.")
    beta: Weight = Field(default=8.0, description="Base dkd alone: weight of the divergence among the other classes.")
