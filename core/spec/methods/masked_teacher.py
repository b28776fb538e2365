"""Parameters of ``masked_teacher``: a teacher that sees the patches the student attends to (Son et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import LABEL_FREE_TERMS, Weight


class MaskedTeacherParams(MethodParams):
    """Show the teacher only the patches that the student's class token attends to."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The ViT teacher sees only the patches that the student attends to most, which makes it cheaper. Its "
        "logits are used as in any logit method.",
        paper="The Role of Masking for Efficient Supervised Knowledge Distillation of Vision Transformers, "
        "arXiv:2302.10494",
        year=2024,
        when="The teacher is a large ViT and takes most of the time of a step.",
        needs=Requirements(
            student=("logits", "attention"),
            teacher=("logits", "patch tokens"),
            student_families=("transformer",),
            teacher_families=("transformer",),
        ),
    )
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {"label_weight": (0.0,), "logits": LABEL_FREE_TERMS}
    name: Literal["masked_teacher"] = Field(description="The method's name.")
    keep: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Fraction of the patches that the teacher sees; 1 is the logit method without masking.",
    )
    label_weight: Weight = Field(default=0.5, description="Weight of the cross-entropy with the labels.")
    logits: Literal["kd", "dkd", "nkd", "dist", "logit_standardization", "wsld", "wttm"] = Field(
        default="kd", description="Logit method that compares student and teacher."
    )
    logits_weight: Weight = Field(default=0.5, description="Weight of the logit term.")
    temperature: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="Temperature of the logit term. Null: 1 for `kd`, as in the paper, else the method's own default. "
        "For `wttm`: 1 / exponent, at least 1.",
    )
