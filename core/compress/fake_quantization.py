"""Fake quantization with learned scales, for quantization-aware training.

LSQ (Esser et al. 2020, arXiv:1902.08153): q(v) = s · round(clip(v / s, Qn, Qp)), with a straight-through gradient of
the rounding, and the gradient of the scale s multiplied by 1 / sqrt(N · 127), where N is the number of values that
share the scale. Weights have one scale per output channel and no zero point. Activations have one scale per tensor,
and a zero point that stays as it was calibrated, as LSQ+ (arXiv:2004.09576) shows that nonnegative activations need.

Quantized are the weights and inputs of linear layers and convolutions. A network in evaluation mode computes with
torch's own operators for fake quantization, which ONNX expresses as pairs of QuantizeLinear and DequantizeLinear.
Weights become parametrizations, so modules that read ``layer.weight`` themselves see rounded weights too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

QMIN, QMAX = 0, 255  # unsigned, as core.compress.int8 explains
_ZERO = 128  # of weights, whose range is symmetric
_LEVELS = 127  # on each side of zero
_MIN_SCALE = 1e-8
_WEIGHT_AXIS = 0  # output channels of linear layers and convolutions


class LearnedScale(nn.Module):
    """Fake quantization to 8 bits with a learned scale.

    Args:
        scale: Initial scale: one value, or one per output channel of a weight.
        zero_point: Integers of the same shape; the value 0 is quantized to it.
        is_weight: Whether scales belong to output channels; otherwise there is one.
    """

    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, *, is_weight: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale.clamp_min(_MIN_SCALE))
        self.register_buffer("zero_point", zero_point.to(torch.int32))
        self.is_weight = is_weight
        self._numbers: tuple[Any, Any] | None = None  # scale and zero point, once they are final

    @classmethod
    def for_weight(cls, weight: Tensor) -> LearnedScale:
        """Start from scales that cover all weights of a channel; zero is the middle of the range."""
        largest_O = weight.detach().flatten(1).abs().amax(dim=1)
        return cls(largest_O / _LEVELS, torch.full_like(largest_O, _ZERO), is_weight=True)

    @classmethod
    def for_activation(cls, low: float, high: float) -> LearnedScale:
        """Start from a scale and a zero point that cover the calibrated range, and zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / (QMAX - QMIN), _MIN_SCALE)
        zero_point = min(max(round(QMIN - low / scale), QMIN), QMAX)
        return cls(torch.tensor(scale), torch.tensor(zero_point), is_weight=False)

    def forward(self, values: Tensor) -> Tensor:
        """Round ``values`` to the grid of 8 bits, in their own type."""
        if not self.training:
            return self._rounded(values, *(self._numbers or self._current_numbers()))
        scale = self.scale.abs().clamp_min(_MIN_SCALE)
        shape = (-1, *[1] * (values.ndim - 1)) if self.is_weight else ()
        count = values[0].numel() if self.is_weight else values.numel()
        scale = _scale_gradient(scale, 1 / math.sqrt(count * _LEVELS)).reshape(shape)
        zero_point = self.zero_point.reshape(shape)
        steps = (values.float() / scale).clamp(QMIN - zero_point, QMAX - zero_point)
        return (_round(steps) * scale).to(values.dtype)

    def finalize(self) -> None:
        """Fix the scale as a number, so that a traced graph has constants."""
        self._numbers = self._current_numbers()

    def _current_numbers(self) -> tuple[Any, Any]:
        return self.scale.detach().abs().clamp_min(_MIN_SCALE).tolist(), self.zero_point.tolist()

    def _rounded(self, values: Tensor, scale: Any, zero_point: Any) -> Tensor:
        if not self.is_weight:
            return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, QMIN, QMAX)
        scale_O = torch.tensor(scale, device=values.device)
        zero_O = torch.tensor(zero_point, dtype=torch.int32, device=values.device)
        return torch.fake_quantize_per_channel_affine(values, scale_O, zero_O, _WEIGHT_AXIS, QMIN, QMAX)


def quantized_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the linear layers and convolutions of a network by name, in the order of the network."""
    return [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]


def prepare(module: nn.Module, calibrate: Callable[[], None]) -> None:
    """Add fake quantization to a network in place. ``calibrate`` runs it on images, to find ranges of activations."""
    layers = [layer for _, layer in quantized_layers(module)]
    ranges = _observe(layers, calibrate)
    for layer, (low, high) in zip(layers, ranges, strict=True):
        weight: Any = layer.weight
        parametrize.register_parametrization(layer, "weight", LearnedScale.for_weight(weight), unsafe=True)
        layer.input_scale = LearnedScale.for_activation(low, high)
        layer.register_forward_pre_hook(_quantize_input)


def finalize(module: nn.Module) -> None:
    """Fix all scales of a trained network, before it is traced."""
    for part in module.modules():
        if isinstance(part, LearnedScale):
            part.finalize()


def _quantize_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    scale: Any = layer.input_scale
    return (scale(inputs[0]), *inputs[1:])


def _observe(layers: Iterable[nn.Module], calibrate: Callable[[], None]) -> list[tuple[float, float]]:
    """Return the smallest and the largest input value of each layer while ``calibrate`` runs; (0, 0) if not called."""
    found: dict[int, tuple[float, float]] = {}

    def observe(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        low, high = found.get(id(layer), (0.0, 0.0))
        found[id(layer)] = (min(low, float(inputs[0].min())), max(high, float(inputs[0].max())))

    layers = list(layers)
    hooks = [layer.register_forward_pre_hook(observe) for layer in layers]
    try:
        with torch.no_grad():
            calibrate()
    finally:
        for hook in hooks:
            hook.remove()
    return [found.get(id(layer), (0.0, 0.0)) for layer in layers]


def _round(values: Tensor) -> Tensor:
    """Round to the nearest integer; the gradient is that of the identity."""
    return values + (values.round() - values).detach()


def _scale_gradient(value: Tensor, factor: float) -> Tensor:
    """Return ``value`` with its gradient multiplied by ``factor``."""
    scaled = value * factor
    return (scaled - scaled.detach()) + value.detach()  # in this order the value is exact
