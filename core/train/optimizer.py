"""AdamW for the student and the method's modules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into two groups: with weight decay, and without.

    Not decayed: norms, biases and other vectors, and the parameters that a timm model lists in ``no_weight_decay``
    (position embeddings, class and distillation tokens, relative position tables).
    """
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    for module in modules:
        no_weight_decay = getattr(module, "no_weight_decay", None)
        excluded = no_weight_decay() if no_weight_decay is not None else frozenset()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                (not_decayed if parameter.ndim <= 1 or name in excluded else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": not_decayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(modules: Sequence[nn.Module], *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Build a fused AdamW: one kernel on CUDA, and a fifth of the unfused overhead on a CPU."""
    return torch.optim.AdamW(parameter_groups(modules, weight_decay), lr=learning_rate, fused=True)


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """L2 norm over all gradients, as a scalar on their device."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # noqa: SLF001 - as torch.nn.utils.clip_grad does
    return norm


def clip_gradients(gradients: list[Tensor], norm: Tensor, limit: float) -> None:
    """Scale gradients so that their norm is at most ``limit``: torch's formula, without a device synchronization."""
    torch._foreach_mul_(gradients, torch.clamp(limit / (norm + 1e-6), max=1.0))
