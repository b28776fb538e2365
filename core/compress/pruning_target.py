"""Targets of structured pruning, and the search for the least pruning that reaches one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch

from core.evaluate.flops import count_flops
from core.evaluate.latency import measure_latency
from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta, count_parameters
from core.models.preprocessing import Preprocessing

Measure = Literal["flops", "parameters", "latency_ms"]

_NUM_BISECTIONS = 10
_LATENCY_SECONDS = 0.3  # per candidate


@dataclass(frozen=True, slots=True)
class PruningTarget:
    """``measure`` has to fall to ``limit``, an absolute number: FLOPs per image, parameters, or milliseconds."""

    measure: Measure
    limit: float

    @classmethod
    def relative_to(cls, built: BuiltModel, measure: Measure, value: float) -> PruningTarget:
        """Return the target of a spec: a fraction of the model's FLOPs or parameters, or milliseconds."""
        if measure == "latency_ms":
            return cls(measure, value)
        return cls(measure, value * measured(measure, built.architecture, built.arguments, built.preprocessing))


def measured(
    measure: Measure, architecture: str, arguments: dict[str, Any] | Any, preprocessing: Preprocessing
) -> float:
    """Return a measure of ``timm.create_model(architecture, **arguments)``; weights have no influence.

    FLOPs and parameters are counted on the meta device. The latency is the median time of one image on the CPU.
    """
    size = preprocessing.image_size
    if measure == "latency_ms":
        with torch.random.fork_rng(devices=[]):
            module = timm.create_model(architecture, pretrained=False, **arguments).eval()
        example_CHW = torch.zeros(preprocessing.channels, size, size)
        (latency,) = measure_latency(module, example_CHW, batch_sizes=(1,), seconds=_LATENCY_SECONDS)
        return latency.milliseconds
    module = build_on_meta(architecture, arguments)
    if measure == "parameters":
        return count_parameters(module)
    return count_flops(module, torch.empty(1, preprocessing.channels, size, size, device="meta"))


def least_fraction(
    measure: Callable[[float], float], limit: float, *, num_bisections: int = _NUM_BISECTIONS
) -> float | None:
    """Return the smallest fraction in 0…1 with ``measure(fraction) <= limit``; None if 1 exceeds it.

    ``measure`` falls with the fraction.
    """
    if measure(0.0) <= limit:
        return 0.0
    if measure(1.0) > limit:
        return None
    too_little, sufficient = 0.0, 1.0
    for _ in range(num_bisections):
        middle = (too_little + sufficient) / 2
        too_little, sufficient = (too_little, middle) if measure(middle) <= limit else (middle, sufficient)
    return sufficient
