"""SGD with separate momenta for the label loss and the distillation loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class DotSgd(torch.optim.Optimizer):
    """DOT: distillation-oriented training (Zhao et al. 2023, arXiv:2307.08436), plain SGD without Nesterov.

    The label gradient has the momentum ``momentum`` − ``delta``, the distillation gradient ``momentum`` + ``delta``; a
    parameter with only one of them has ``momentum``. A step applies the label's update, then that of distillation.
    The weight decay is added to the label gradient; to the distillation gradient only where the parameter has no label
    gradient, from its second step on, as in the official code.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, delta: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": 0.0})
        self._gradients: tuple[Sequence[Tensor | None], Sequence[Tensor | None]] | None = None

    def set_gradients(self, task: Sequence[Tensor | None], distillation: Sequence[Tensor | None]) -> None:
        """Set both gradients of each parameter, in the order of the groups, for the next step."""
        self._gradients = (task, distillation)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply the gradients that were set last."""
        assert self._gradients is not None, "set_gradients comes before each step"
        assert closure is None
        parameters = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        for (parameter, group), task, distillation in zip(parameters, *self._gradients, strict=True):
            if task is not None:
                self._apply_task(parameter, task, group, is_shared=distillation is not None)
            if distillation is not None:
                self._apply_distillation(parameter, distillation, group, is_shared=task is not None)
        self._gradients = None

    def _apply_task(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], *, is_shared: bool) -> None:
        velocity = self.state[parameter].get("task_momentum")
        decayed = gradient.add(parameter, alpha=group["weight_decay"])
        if velocity is None:
            velocity = self.state[parameter]["task_momentum"] = decayed.clone()
        else:
            momentum = group["momentum"] - group["delta"] if is_shared else group["momentum"]
            velocity.mul_(momentum).add_(decayed)
        parameter.sub_(velocity, alpha=group["lr"])

    def _apply_distillation(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], *, is_shared: bool
    ) -> None:
        velocity = self.state[parameter].get("distillation_momentum")
        if velocity is None:
            velocity = self.state[parameter]["distillation_momentum"] = gradient.clone()
        elif is_shared:
            velocity.mul_(group["momentum"] + group["delta"]).add_(gradient)
        else:
            velocity.mul_(group["momentum"]).add_(gradient).add_(parameter, alpha=group["weight_decay"])
        parameter.sub_(velocity, alpha=group["lr"])
