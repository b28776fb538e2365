"""Optimizers of the student and the method's modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from core.spec.training import OptimizerName
from core.train.dot import DotSgd

CONSTANT_RATE = "constant_rate"  # of a parameter group: a learning rate that follows no schedule
_SGD_MOMENTUM = 0.9


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into two groups: with weight decay, and without.

    Not decayed: norms, biases and other vectors, and the parameters that a timm model lists in ``no_weight_decay``
    (position embeddings, class and distillation tokens, relative position tables). A parameter that a method lists in
    ``constant_rates`` gets a group of its own, without weight decay.
    """
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    constant: list[dict[str, Any]] = []
    for module in modules:
        no_weight_decay = getattr(module, "no_weight_decay", None)
        excluded = no_weight_decay() if no_weight_decay is not None else frozenset()
        rates: Mapping[str, float] = getattr(module, "constant_rates", {})
        for name, parameter in module.named_parameters():
            if name in rates:
                options = {"weight_decay": 0.0, "lr": rates[name], CONSTANT_RATE: rates[name]}
                constant.append({"params": [parameter], **options})
            elif parameter.requires_grad:
                (not_decayed if parameter.ndim <= 1 or name in excluded else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": not_decayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]] + constant


def build_optimizer(
    modules: Sequence[nn.Module],
    *,
    learning_rate: float,
    weight_decay: float,
    name: OptimizerName = "adamw",
    dot_delta: float | None = None,
) -> torch.optim.Optimizer:
    """Build an optimizer, fused where it can be: one kernel on CUDA, and a fifth of the unfused overhead on a CPU.

    ``sgd`` has Nesterov momentum 0.9, and adds the weight decay to the gradient. ``adamw`` and ``lion`` (Chen et al.
    2023, arXiv:2302.06675) decay weights by ``learning_rate`` · ``weight_decay``. With ``dot_delta``, ``sgd`` is
    :class:`DotSgd`.
    """
    groups = parameter_groups(modules, weight_decay)
    if dot_delta is not None:
        assert name == "sgd"
        return DotSgd(groups, lr=learning_rate, momentum=_SGD_MOMENTUM, delta=dot_delta)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    options: dict[str, Any] = {"momentum": _SGD_MOMENTUM, "fused": True} if name == "sgd" else {}
    optimizer: torch.optim.Optimizer = create_optimizer_v2(groups, opt=name, lr=learning_rate, **options)
    return optimizer


def can_skip_steps(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer can skip a non-finite step on the device: torch's fused optimizers can."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """L2 norm over all gradients, as a scalar on their device."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # noqa: SLF001 - as torch.nn.utils.clip_grad does
    return norm


def clip_gradients(gradients: list[Tensor], norm: Tensor, limit: float) -> None:
    """Scale gradients so that their norm is at most ``limit``: torch's formula, without a device synchronization."""
    torch._foreach_mul_(gradients, torch.clamp(limit / (norm + 1e-6), max=1.0))
