"""Build models on torch's meta device, to determine their shapes, parameters and cost.

No weights are allocated, whatever the size. Weight initialization is skipped too: it would take five times as long as
the rest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import potstill_models  # noqa: F401 - timm knows our students from here on, wherever models are built

_FILLS = frozenset(
    {
        "normal_", "uniform_", "erfinv_", "mul_", "add_", "sub_", "div_", "clamp_", "fill_", "zero_", "copy_",
        "trunc_normal_", "constant_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_",
    }
)  # fmt: skip


class _SkipInitialization(TorchFunctionMode):
    """Skips in-place fills: a meta tensor has no values to set."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _FILLS:
            target = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(target, torch.Tensor) and target.is_meta:
                return target
        return func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Iterator[None]:
    """Context manager in which modules are built on the meta device, with shapes but without memory."""
    logger = logging.getLogger("timm.models")
    level = logger.level
    logger.setLevel(logging.ERROR)  # hides "no pretrained configuration", which the catalog reports
    try:
        with torch.device("meta"), _SkipInitialization():
            yield
    finally:
        logger.setLevel(level)


def build_on_meta(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Run ``timm.create_model`` on the meta device; evaluation mode. Raises the exceptions of timm."""
    with on_meta():
        module: nn.Module = timm.create_model(architecture, pretrained=False, **arguments)
    return module.eval()


@lru_cache(maxsize=16)
def shared_on_meta(architecture: str, arguments: str) -> nn.Module:
    """Return :func:`build_on_meta` of these arguments, as JSON. Later calls return the same module: do not change it.

    The jobs of a sweep have few networks in common, and building them takes most of the time of their checks.
    """
    return build_on_meta(architecture, json.loads(arguments))


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values: ``sum(p.numel())`` over all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def parameters_on_meta(architecture: str) -> int | None:
    """Number of parameters of an architecture with default arguments; None if it cannot be built on the meta device."""
    try:
        return count_parameters(build_on_meta(architecture, {}))
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError):
        return None
