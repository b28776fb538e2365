"""Balance between the gradients of the label loss and of a method's other losses, ``training.balance``.

Both gradients are computed in separate backward passes of one forward pass. They are combined once per step, after the
micro-batches and the ranks have been added up, at the parameters that both losses reach. Other parameters (projectors,
heads of one loss) keep their gradient. Shapes: P values of all shared parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.losses import gradient_weights
from core.methods.base import is_label_term
from core.spec.balance import BalanceRule, BalanceSpec
from core.train.dot import DotSgd
from core.train.process_group import ProcessGroup

COSINE = "gradient_cosine"
"""Metric: cosine between both gradients at the parameters that both losses reach."""


class GradientBalance:
    """Both gradients of a step: :meth:`backward` adds those of a micro-batch, :meth:`combine` ends the step.

    ``modules`` are the student and the method, whose buffers are synchronized between ranks: DDP, which would do so,
    does not reduce these gradients.
    """

    def __init__(
        self, rule: BalanceRule, optimizer: torch.optim.Optimizer, modules: Sequence[nn.Module], ranks: ProcessGroup
    ) -> None:
        self._rule = rule
        self._optimizer = optimizer
        self._parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self._modules = modules
        self._ranks = ranks
        self._task: list[Tensor | None] = []
        self._distillation: list[Tensor | None] = []
        self._reset()

    def backward(self, terms: Mapping[str, Tensor], weight: float) -> None:
        """Add the gradients of a micro-batch's terms, multiplied by ``weight``."""
        task = [term for name, term in terms.items() if is_label_term(name)]
        distillation = [term for name, term in terms.items() if not is_label_term(name)]
        if task:
            self._task = self._added(self._task, task, weight, retain_graph=bool(distillation))
        if distillation:
            self._distillation = self._added(self._distillation, distillation, weight, retain_graph=False)

    def combine(self) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Set the gradient of every parameter, and start the next step.

        Returns the metric :data:`COSINE`, unless the losses of the step share no parameter, and gradients that only the
        optimizer reads; they have to be clipped with the others. Only the rule ``dot`` has some: the gradient of a
        parameter is then the sum, for its norm and the check of finite values.
        """
        task = self._ranks.average_gradients(self._task, self._parameters)
        distillation = self._ranks.average_gradients(self._distillation, self._parameters)
        self._reset()
        if isinstance(self._optimizer, DotSgd):
            self._optimizer.set_gradients(task, distillation)
        shared: list[tuple[Tensor, Tensor, Tensor]] = []
        for parameter, first, second in zip(self._parameters, task, distillation, strict=True):
            parameter.grad = second if first is None else first
            if first is not None and second is not None:
                shared.append((parameter, first, second))
        if not shared:
            return {}, []
        task_P = torch.cat([first.flatten() for _, first, _ in shared])
        distillation_P = torch.cat([second.flatten() for _, _, second in shared])
        gradient_P = self._weighted_sum(task_P, distillation_P)
        parts = torch.split(gradient_P, [parameter.numel() for parameter, _, _ in shared])
        for (parameter, _, _), part in zip(shared, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        separate = [gradient for _, *pair in shared for gradient in pair] if self._rule == "dot" else []
        return {COSINE: F.cosine_similarity(task_P, distillation_P, dim=0)}, separate

    def _reset(self) -> None:
        self._task = [None] * len(self._parameters)
        self._distillation = [None] * len(self._parameters)
        self._ranks.broadcast_buffers(self._modules)

    def _added(
        self, gradients: list[Tensor | None], terms: Sequence[Tensor], weight: float, *, retain_graph: bool
    ) -> list[Tensor | None]:
        """Add the gradients of the sum of ``terms`` to ``gradients``."""
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.autograd.backward(torch.stack(tuple(terms)).sum() * weight, retain_graph=retain_graph)
        added = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        return added

    def _weighted_sum(self, task_P: Tensor, distillation_P: Tensor) -> Tensor:
        match self._rule:
            case "none" | "dot":
                return task_P + distillation_P
            case rule:
                weights = gradient_weights(task_P, distillation_P, rule=rule)
                return weights[0] * task_P + weights[1] * distillation_P


def build_balance(
    spec: BalanceSpec, optimizer: torch.optim.Optimizer, modules: Sequence[nn.Module], ranks: ProcessGroup
) -> GradientBalance | None:
    """Build the balance of a training; None for the rule ``none``."""
    return None if spec.rule == "none" else GradientBalance(spec.rule, optimizer, modules, ranks)
