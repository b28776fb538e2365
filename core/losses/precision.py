"""Computation of losses in float32, whatever the precision of the networks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Result = TypeVar("Result")

DEVICE_TYPES = ("cpu", "cuda")


def outside_autocast(loss: Callable[P, Result]) -> Callable[P, Result]:
    """Disable autocast inside ``loss``, because it would run matrix products of float32 tensors in half precision.

    Gram matrices of unit vectors have entries around 1e-3; their squared differences are subnormal in float16.
    """

    @functools.wraps(loss)
    def in_float32(*args: P.args, **kwargs: P.kwargs) -> Result:
        with ExitStack() as stack:
            for device_type in DEVICE_TYPES:
                if torch.is_autocast_enabled(device_type):
                    stack.enter_context(torch.autocast(device_type, enabled=False))
            return loss(*args, **kwargs)

    return in_float32
