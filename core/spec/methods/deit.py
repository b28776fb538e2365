"""Parameters of ``deit``: a distillation token (Touvron et al. 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements


class DeitParams(MethodParams):
    """Add a token to the student that learns from the teacher while the class token learns from labels."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="A distillation token with its own head learns from the teacher, the class token from the labels; at "
        "inference both heads are averaged.",
        paper="Training data-efficient image transformers & distillation through attention, arXiv:2012.12877",
        year=2020,
        when="ViT student, especially with a CNN teacher, whose inductive bias it acquires.",
        needs=Requirements(
            min_teachers=1,
            max_teachers=1,
            student=("logits", "distillation token"),
            student_families=("transformer",),
        ),
        caches=("logits",),
    )
    name: Literal["deit"] = Field(description="The method's name.")
    distillation_type: Literal["soft", "hard"] = Field(
        default="hard",
        description="`hard`: cross-entropy with the teacher's decision; `soft`: divergence from its softened "
        "probabilities.",
    )
    alpha: float = Field(
        default=0.5, ge=0, le=1, description="Weight λ of the distillation head; the class head has 1 − alpha."
    )
    temperature: float = Field(
        default=3.0, gt=0, le=100, description="Temperature T that softens both distributions; used only with `soft`."
    )
    reduction: Literal["sample", "element"] = Field(
        default="sample",
        description="`sample` divides the soft divergence by the batch size, as in the paper; `element` by batch size "
        "times number of classes, as in the official code.",
    )
