"""Floating-point operations of one forward pass, by the formulas of torch's own counter.

A multiply-add is two operations, as in ``torch.utils.flop_counter``; papers that count
"MACs" show half of this. Attention is counted whether it runs fused or not; what is not a matrix
product or a convolution (norms, activations) is not counted. Works on the meta device.
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


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Adds up ``flop_registry``. ``FlopCounterMode`` does too, but tracks modules and takes three times as long."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        answer = func(*args, **options)
        formula = flop_registry.get(func._overloadpacket)  # noqa: SLF001 - the registry's own key
        if formula is not None:
            self.flops += formula(*args, **options, out_val=answer)
        return answer


class _MetaShortcuts(TorchFunctionMode):
    """Answers the commonest calls on the meta device by their shape alone.

    torch spells these out there in slow Python: a ViT takes three times as long without this. What does
    not match the plain case, wrong shapes included, goes to torch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        shortcut = _SHORTCUTS.get(func)
        if shortcut is not None and args and args[0].is_meta:
            answer = shortcut(*args, **options)
            if answer is not None:
                output, flops = answer
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
    """Operations of one forward pass over ``images_BCHW``; divide by the batch for one picture.

    The module should be in evaluation mode. Raises whatever the module raises at these images.
    """
    shortcuts = _MetaShortcuts()
    with torch.no_grad(), _Counter() as counter:
        if images_BCHW.is_meta:
            with shortcuts:
                module(images_BCHW)
        else:
            # The fused kernel of the CPU is unknown to the counter; the plain one is made of matrix products.
            with sdpa_kernel(SDPBackend.MATH):
                module(images_BCHW)
    return int(counter.flops + shortcuts.flops)
