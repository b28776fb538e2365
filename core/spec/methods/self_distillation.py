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
        needs=Requirements(min_teachers=0, max_teachers=0, teacher=(), student=("logits", "levels", "embedding")),
        formula="`exits`: CE(last, labels) + sum over exits of ((1 − alpha) · CE(exit, labels) + alpha · CE(exit / "
        "T, softmax(last / T))) + hint_weight · the hints. Hint `norm`: ‖A(an exit's pooled features) − the "
        "embedding‖₂ over all entries of the batch. `mean_square`: the mean of (A(an exit's tokens) − the last "
        "tokens)². A is a linear layer. `ema_teacher`: (1 − alpha) · CE(student, labels) + alpha · T² · KL(average ‖ "
        "student).",
        deviations=(
            (
                "As in the official code of `exits`, the soft labels have no factor T², and with `norm` the exit next "
                "to the last layer has no hint if there are several exits. With `mean_square` every exit has one."
            ),
            (
                "An exit is a transformer block and a norm on the level's tokens, where the paper has convolutions; "
                "there are two exits instead of three. Targets are detached from the last layer. Exits are dropped at "
                "export."
            ),
            (
                "The official code also evaluates the mean of all exits; here the last layer alone is evaluated and "
                "exported."
            ),
            (
                "A hint of 0.03 for `norm` is not comparable with one for `mean_square`: the norm grows with the "
                "square root of the batch size and of the width."
            ),
            (
                "`ema_teacher`: soft labels replace the paper's squared error. The student is exported, not the "
                "average; `training.ema` exports an average."
            ),
        ),
    )
    name: Literal["self_distillation"] = Field(description="The method's name.")
    variant: Literal["exits", "ema_teacher"] = Field(
        default="exits",
        description="`exits`: early layers learn from the last layer; `ema_teacher`: the student learns from the "
        "moving average of its weights.",
    )
    alpha: float = Field(default=0.3, ge=0, le=1, description="Weight α of the soft labels; the labels have 1 − alpha.")
    temperature: float = Field(
        default=3.0,
        gt=0,
        le=100,
        description="Temperature T that softens both distributions. The soft labels of `ema_teacher` have the factor "
        "T², those of `exits` have none.",
    )
    exits: tuple[Annotated[int, Field(ge=0, le=1000)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="Levels of the student with an exit, counted from 0 in ascending order, without the last level. "
        "Null: the levels at a third and two thirds of the depth.",
    )
    hint: Literal["norm", "mean_square"] = Field(
        default="norm",
        description="Distance between an exit's features and the last ones. `norm`: the L2 norm over the whole batch "
        "of pooled features, as in the official code; it needs a single device, and no `gradient_accumulation`. "
        "`mean_square`: the mean squared error of tokens. Used only with variant `exits`.",
    )
    hint_weight: Weight = Field(
        default=0.03,
        description="Weight λ of the hints: 0.03 in the official code, for `norm`. Used only with variant `exits`.",
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
