"""Exponential moving average of model weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_WARMUP = 10


class Ema:
    """Exponential moving average of a module's parameters and floating-point buffers.

    The decay is warmed up: update t (from 1) uses ``min(decay, (1 + t) / (10 + t))``, so that the random initial
    weights have no effect even in a short training (the rule of TensorFlow's ExponentialMovingAverage). Integer
    buffers are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        live = module.state_dict()  # detached tensors that share storage with the module
        self.weights = {name: tensor.clone() for name, tensor in live.items()}
        floating = [name for name, tensor in live.items() if tensor.is_floating_point()]
        self._averages = [self.weights[name] for name in floating]
        self._values = [live[name] for name in floating]
        self._copied = [(self.weights[name], live[name]) for name in live.keys() - set(floating)]

    def current_decay(self) -> float:
        """Decay of the latest update."""
        return min(self.decay, (1 + self.num_updates) / (_WARMUP + self.num_updates))

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the module's weights. Call after each step."""
        self.num_updates += 1
        torch._foreach_lerp_(self._averages, self._values, 1 - self.current_decay())
        for average, value in self._copied:
            average.copy_(value)

    def load(self, weights: Mapping[str, Tensor], num_updates: int) -> None:
        """Restore a saved average."""
        for name, average in self.weights.items():
            average.copy_(weights[name])
        self.num_updates = num_updates
