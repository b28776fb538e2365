"""What methods have in common, so that they can be combined: logit terms, feature terms, pairs of layers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from core.spec.methods.base import MethodParams

LogitTerm = Literal["kd", "dkd", "nkd", "dist", "logit_standardization", "wsld", "none"]
LayerPair = tuple[Annotated[int, Field(ge=0, le=1000)], Annotated[int, Field(ge=0, le=1000)]]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class LogitParams(MethodParams):
    """Methods that compare logits: any number of teachers, each compared on its own."""

    teacher_weights: tuple[Weight, ...] | None = Field(
        default=None,
        max_length=8,
        description="How much each of several teachers counts, in their order; scaled to a sum of 1. Null: all alike.",
    )

    @field_validator("teacher_weights")
    @classmethod
    def _some_weight(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not sum(weights) > 0:
            raise PydanticCustomError("weights", "at least one teacher has to count: give a weight above 0")
        return weights


class FeatureParams(MethodParams):
    """Methods that add terms of inner features to a logit term and the labels."""

    weight: Weight = Field(default=1.0, description="Weight of the feature terms.")
    warmup_epochs: float = Field(
        default=0.0, ge=0, le=10_000, description="The feature terms grow from 0 to their weight over so many epochs."
    )
    label_weight: Weight = Field(default=1.0, description="Weight of the labels' cross-entropy.")
    logits: LogitTerm = Field(
        default="kd", description="The logit method that is added, with its own defaults; `none` leaves it out."
    )
    logits_weight: Weight = Field(default=1.0, description="Weight of the logit term.")
    temperature: float | None = Field(
        default=None, gt=0, le=100, description="Temperature of the logit term. Null: that method's own default."
    )


class LayeredParams(FeatureParams):
    """Feature methods that pair layers of student and teacher."""

    layers: tuple[LayerPair, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Pairs of student and teacher level, counted from 0: blocks of a ViT, stages of other models. "
        "Null: pairs at equal relative depth.",
    )
