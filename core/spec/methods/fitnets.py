"""Parameters of ``fitnets``: hints from inner layers (Romero et al. 2015)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams, Weight


class FitnetsParams(LayeredParams):
    """Predict the teacher's features from the student's by a regressor."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's features, projected to the teacher's width, match the teacher's at chosen layers.",
        paper="FitNets: Hints for Thin Deep Nets, arXiv:1412.6550",
        year=2014,
        when="Student and teacher of one family, the student not much narrower than the teacher.",
        needs=Requirements(teacher=("logits", "levels"), student=("logits", "levels")),
        caches=("levels", "logits"),
    )
    name: Literal["fitnets"] = Field(description="The method's name.")
    weight: Weight = Field(default=1.0, description="Weight of the feature terms; 100 in the CNN literature.")
    regressor: Literal["linear", "convolutional"] = Field(
        default="linear",
        description="Regressor r from the student's features to the teacher's: a linear layer, or the CNN literature's "
        "1 × 1 convolution, batch norm and ReLU, which suits features that are never negative.",
    )
