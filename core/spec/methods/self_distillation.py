"""Parameters of ``self_distillation``: the student is its own teacher."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class SelfDistillationParams(MethodParams):
    """Learn from labels and from the student itself: its last layer, or the moving average of its weights."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="No teacher: exits at a third and two thirds of the student's depth learn from its last layer, or the "
        "student learns from a moving average of its own weights that sees another view.",
        paper="Be Your Own Teacher, arXiv:1905.08094; Mean teachers are better role models, arXiv:1703.01780",
        year=2019,
        when="There is no teacher for the classes, and none can be trained.",
        needs=Requirements(min_teachers=0, max_teachers=0, teacher=(), student=("logits", "levels")),
    )
    name: Literal["self_distillation"] = Field(description="The method's name.")
    variant: Literal["exits", "ema_teacher"] = Field(
        default="exits",
        description="`exits`: early layers learn from the last layer; `ema_teacher`: the student learns from the "
        "moving average of its weights.",
    )
    alpha: float = Field(default=0.3, ge=0, le=1, description="Weight α of the soft labels; the labels have 1 − alpha.")
    temperature: float = Field(default=3.0, gt=0, le=100, description="Temperature T that softens both distributions.")
    exits: tuple[Annotated[int, Field(ge=0, le=1000)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="Levels of the student with an exit, counted from 0 in ascending order, without the last level. "
        "Null: the levels at a third and two thirds of the depth.",
    )
    hint_weight: Weight = Field(
        default=0.03,
        description="Weight λ of the squared error between an exit's tokens and the last tokens; used only with "
        "variant `exits`.",
    )
    momentum: float = Field(
        default=0.996,
        ge=0,
        lt=1,
        description="Momentum of the moving average (α in the paper), which grows to 1 along a cosine. It is lower in "
        "the first steps, so that random initial weights are forgotten. Used only with variant `ema_teacher`.",
    )
    view: Literal["crop", "flip", "same"] = Field(
        default="crop",
        description="The average's view of each image. `crop`: a random crop with at least `min_crop` of each side; "
        "`flip`: the mirrored image, unsuitable for digits or letters; `same`: the student's view. Used only with "
        "variant `ema_teacher`.",
    )
    min_crop: float = Field(
        default=0.8, gt=0, le=1, description="Minimum side of a `crop`, as a fraction of the image's side."
    )

    @field_validator("exits")
    @classmethod
    def _rising(cls, exits: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if exits is not None and list(exits) != sorted(set(exits)):
            raise PydanticCustomError("exits", "give each level once, from the first to the last")
        return exits
