"""Parameters of ``fitnets``: hints from inner layers (Romero et al. 2015)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LayeredParams, LayerPair, Weight


class FitnetsParams(LayeredParams):
    """Predict the teacher's features from the student's by a regressor."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's features, projected to the teacher's width, match the teacher's at chosen layers.",
        paper="FitNets: Hints for Thin Deep Nets, arXiv:1412.6550",
        year=2014,
        when="Student and teacher of one family, the student not much narrower than the teacher.",
        needs=Requirements(teacher=("logits", "levels"), student=("logits", "levels")),
        caches=("levels", "logits"),
        formula="label_weight · CE(student, labels) + logits_weight · the term of `logits` + weight · mean over pairs "
        "of the mean of (r(student's tokens) − teacher's tokens)² over batch, tokens and channels.",
        deviations=(
            (
                "The paper trains the hint in a first stage of its own, and then the logits; here, as in later "
                "literature, all terms are trained together."
            ),
            (
                "weight is 1; the CNN literature has 100. The mean squared error starts at about the variance of the "
                "teacher's channels: with variances of 0.1 to 1, a weight of 100 starts at 10 to 100, against a label "
                "loss of 2.3 for 10 classes."
            ),
            (
                "The default regressor is linear, because tokens of a ViT may be negative; the CNN literature's ends "
                "with a ReLU: `regressor` `convolutional`."
            ),
            (
                "Tokens are compared on the coarser of the two grids, without prefix tokens; the literature strides "
                "or pads a larger kernel instead."
            ),
        ),
    )
    name: Literal["fitnets"] = Field(description="The method's name.")
    weight: Weight = Field(
        default=1.0,
        description="Weight of the feature terms: 1, so that the hint starts no larger than the labels; the CNN "
        "literature has 100.",
    )
    layers: tuple[LayerPair, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Pairs [student level, teacher level], counted from 0. Levels are the blocks of a ViT and the "
        "stages of other models. Null: the middle level of both, as in the paper.",
    )
    regressor: Literal["linear", "convolutional"] = Field(
        default="linear",
        description="Regressor r from the student's features to the teacher's: a linear layer, or the CNN "
        "literature's 1 × 1 convolution, batch norm and ReLU, which suits features that are never negative.",
    )
