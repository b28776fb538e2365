"""The balance between the gradients of the label loss and of the other losses of a method."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.spec.document import StrictModel

BalanceRule = Literal["none", "projected", "min_norm", "equal_norm", "dot"]


class BalanceSpec(StrictModel):
    """How the gradients of the label loss and of the distillation losses are combined."""

    rule: BalanceRule = Field(
        default="none",
        description="`none`: their sum. `projected`: where they conflict, each without its part against the other "
        "(PCGrad). `min_norm`: their shortest convex combination (MGDA), which follows the smaller one and shortens "
        "the step. `equal_norm`: distillation scaled to the length of the label gradient, at most tenfold. `dot`: SGD "
        "with a momentum for each (DOT, arXiv:2307.08436), without Nesterov. All but `none` compute a second backward "
        "pass and log `gradient_cosine`.",
    )
    delta: float = Field(
        default=0.075,
        ge=0,
        le=0.099,
        description="Only with `dot`: the labels have the momentum 0.9 − delta, distillation 0.9 + delta. 0.075 for "
        "CIFAR and 0.09 for ImageNet in the paper.",
    )

    @property
    def dot_delta(self) -> float | None:
        """``delta`` with the rule ``dot``, else None."""
        return self.delta if self.rule == "dot" else None
