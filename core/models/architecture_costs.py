"""Parameters and FLOPs of timm's architectures with default arguments, counted beforehand.

A search shows a dozen architectures while one types; building each of them would take seconds.
``python -m benchmarks architecture_costs`` writes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

COSTS = Path(__file__).with_name("architecture_costs.json")


class ArchitectureCost(NamedTuple):
    """Number of parameters, and FLOPs of one image of the default size; None: it cannot be built or run unseen."""

    parameters: int | None
    flops: int | None


@cache
def counted_costs() -> Mapping[str, ArchitectureCost]:
    """Return the costs by name, without pretrained tags. Architectures of a newer timm are missing."""
    document = json.loads(COSTS.read_text(encoding="utf-8"))
    return {name: ArchitectureCost(*cost) for name, cost in document["architectures"].items()}
