"""Parameters of ``lift``: a student as wide as its teacher at its end (arXiv:2511.15572)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import FeatureParams


class LiftParams(FeatureParams):
    """Keep at inference what brings a narrow student to the teacher's width, and match the last tokens there."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="A narrow student ends at the teacher's width, by a linear layer or a wide last block that it keeps; "
        "its last tokens match the teacher's.",
        paper="From Per-Image Low-Rank to Encoding Mismatch: Rethinking Feature Distillation in Vision Transformers, "
        "arXiv:2511.15572",
        year=2025,
        when="The student is much narrower than its teacher and feature losses do not help, for a few more weights.",
        needs=Requirements(teacher=("logits", "last"), student=("logits", "last"), student_families=("transformer",)),
        caches=("last", "logits"),
    )
    name: Literal["lift"] = Field(description="The method's name.")
    form: Literal["lift", "wide_last"] = Field(
        default="lift",
        description="`lift` puts a linear layer behind the student's final norm, `wide_last` gives its last block the "
        "teacher's width. Both are kept in the exported student.",
    )
