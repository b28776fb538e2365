"""Parameters of ``logit_standardization``: logits with mean 0 and standard deviation 1 (Sun et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams, Weight


class LogitStandardizationParams(LogitParams):
    """Standardize both networks' logits in each sample before they are compared."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Both networks' logits are standardized to mean 0 and standard deviation 1 in each sample, so that the "
        "student matches the teacher's ranking and not its scale.",
        paper="Logit Standardization in Knowledge Distillation, arXiv:2403.01427",
        year=2024,
        when="A student far smaller than its teacher, which cannot reach the scale of the teacher's logits.",
        needs=Requirements(max_teachers=None),
        caches=("logits",),
    )
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {"label_weight": (0.0,), "base": ("kd",)}
    name: Literal["logit_standardization"] = Field(description="The method's name.")
    base: Literal["kd", "dkd"] = Field(default="kd", description="Method that compares the standardized logits.")
    temperature: float = Field(
        default=2.0, gt=0, le=100, description="Base temperature τ that softens the standardized logits."
    )
    weight: Weight = Field(default=9.0, description="Weight λ_KD of the distillation term.")
    label_weight: Weight | None = Field(
        default=None,
        description="Weight λ_CE of the cross-entropy with the labels. Null: 0.1 with base `kd`, 1 with base `dkd`.",
    )
    alpha: Weight = Field(
        default=1.0, description="Weight α of the target class against the rest; used only with base `dkd`."
    )
    beta: Weight = Field(
        default=8.0, description="Weight β of the divergence among the other classes; used only with base `dkd`."
    )
