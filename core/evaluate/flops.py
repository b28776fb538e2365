"""Floating-point operations (FLOPs) of one forward pass, by the formulas of torch's own counter.

A multiply-add is two operations, as in ``torch.utils.flop_counter``; papers that count "MACs" show half of this. Fused
and unfused attention count the same. Only matrix products and convolutions count; norms and activations do not. Works
on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """Sums the formulas of ``flop_registry``. ``FlopCounterMode`` also tracks modules and takes three times as long."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        output = func(*args, **options)
        formula = flop_registry.get(func._overloadpacket)  # noqa: SLF001 - the key of the registry
        if formula is not None:
            self.flops += formula(*args, **options, out_val=output)
        return output


class _MetaShortcuts(TorchFunctionMode):
    """Computes the output shapes and FLOPs of frequent functions on the meta device.

    torch decomposes these functions in Python: a ViT takes three times as long without the shortcuts. Calls that do
    not match the common case, wrong shapes included, run in torch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        shortcut = _SHORTCUTS.get(func)
        if shortcut is not None and args and args[0].is_meta:
            result = shortcut(*args, **options)
            if result is not None:
                output, flops = result
                self.flops += flops
                return output
        return func(*args, **options)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, int] | None:
    if (
        query.ndim != 4
        or key.shape != value.shape
        or query.shape[:2] != key.shape[:2]
        or query.shape[-1] != key.shape[-1]
    ):
        return None
    flops: int = sdpa_flop_count(query.shape, key.shape, value.shape)  # type: ignore[no-untyped-call]
    return torch.empty_like(query), flops


def _linear(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> tuple[Tensor, int] | None:
    if weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        return None
    output = x.new_empty((*x.shape[:-1], weight.shape[0]))
    return output, 2 * output.numel() * weight.shape[1]


def _layer_norm(x: Tensor, normalized_shape: Any, *_: Any, **__: Any) -> tuple[Tensor, int] | None:
    shape = tuple(normalized_shape)
    return (torch.empty_like(x), 0) if tuple(x.shape[-len(shape) :]) == shape else None


def _gelu(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, int]:
    return torch.empty_like(x), 0


_SHORTCUTS: dict[Any, Callable[..., tuple[Tensor, int] | None]] = {
    F.scaled_dot_product_attention: _attention,
    F.linear: _linear,
    F.layer_norm: _layer_norm,
    F.gelu: _gelu,
}


def count_flops(module: nn.Module, images_BCHW: Tensor) -> int:
    """Count the operations of one forward pass over ``images_BCHW``; divide by the batch size for one image.

    The module should be in evaluation mode. Errors of the module propagate.
    """
    shortcuts = _MetaShortcuts()
    with torch.no_grad(), _Counter() as counter:
        if images_BCHW.is_meta:
            with shortcuts:
                module(images_BCHW)
        else:
            # torch has no formula for the fused kernel of the CPU; the math kernel consists of matrix products.
            with sdpa_kernel(SDPBackend.MATH):
                module(images_BCHW)
    return int(counter.flops + shortcuts.flops)
