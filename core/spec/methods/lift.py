"""Parameters of ``lift``: a student that ends at its teacher's width (arXiv:2511.15572)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import FeatureParams


class LiftParams(FeatureParams):
    """Widen the end of a narrow student to the teacher's width, also at inference, and match the last tokens."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="A narrow student ends at the teacher's width, by a linear layer or a wide last block that is "
        "exported with it; its last tokens match the teacher's.",
        paper="From Per-Image Low-Rank to Encoding Mismatch: Rethinking Feature Distillation in Vision Transformers, "
        "arXiv:2511.15572",
        year=2025,
        when="The student is much narrower than its teacher, feature losses do not help, and a few more weights are "
        "acceptable.",
        needs=Requirements(teacher=("logits", "last"), student=("logits", "last"), student_families=("transformer",)),
        caches=("last", "logits"),
    )
    name: Literal["lift"] = Field(description="The method's name.")
    form: Literal["lift", "wide_last"] = Field(
        default="lift",
        description="`lift` adds a linear layer after the student's final norm; `wide_last` gives its last block the "
        "teacher's width. Both are part of the exported student.",
    )
