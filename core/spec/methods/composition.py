"""Parameters that several methods share: logit terms, feature terms, pairs of layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from core.spec.methods.base import MethodParams

LogitTerm = Literal["kd", "dkd", "nkd", "dist", "logit_standardization", "wsld", "wttm", "none"]
LABEL_FREE_TERMS = ("kd", "dist", "logit_standardization", "wttm")  # logit terms that read no labels
LayerPair = tuple[Annotated[int, Field(ge=0, le=1000)], Annotated[int, Field(ge=0, le=1000)]]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class LogitParams(MethodParams):
    """Parameters of methods that compare logits with any number of teachers, each separately."""

    teacher_weights: tuple[Weight, ...] | None = Field(
        default=None,
        max_length=8,
        description="Weight of each teacher, in the order of `teachers`; scaled to a sum of 1. Null: equal weights.",
    )

    @field_validator("teacher_weights")
    @classmethod
    def _some_weight(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not sum(weights) > 0:
            raise PydanticCustomError("weights", "at least one teacher must have a weight above 0")
        return weights

    @classmethod
    def temperature_fields(cls, temperature: float) -> dict[str, float]:
        """The parameters that set a temperature. Raises ``ValueError`` for a temperature that is not supported."""
        return {"temperature": temperature}


class FeatureParams(MethodParams):
    """Parameters of methods that add feature terms to a logit term and the labels."""

    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {"label_weight": (0.0,), "logits": LABEL_FREE_TERMS}
    weight: Weight = Field(default=1.0, description="Weight of the feature terms.")
    warmup_epochs: float = Field(
        default=0.0,
        ge=0,
        le=10_000,
        description="Number of epochs over which the feature terms grow linearly from 0 to their weight.",
    )
    label_weight: Weight = Field(default=1.0, description="Weight of the cross-entropy with the labels.")
    logits: LogitTerm = Field(
        default="kd", description="Logit method that is added as a term, with its own defaults; `none` adds none."
    )
    logits_weight: Weight = Field(default=1.0, description="Weight of the logit term.")
    temperature: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="Temperature of the logit term. Null: that method's own default. For `wttm`, which has an exponent "
        "instead: 1 / exponent, at least 1.",
    )


class LayeredParams(FeatureParams):
    """Parameters of feature methods that pair layers of student and teacher."""

    layers: tuple[LayerPair, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Pairs [student level, teacher level], counted from 0. Levels are the blocks of a ViT and the "
        "stages of other models. Null: pairs at equal relative depth.",
    )
