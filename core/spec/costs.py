"""Relative cost of a training step of each method, as measured and saved in ``costs.json``.

``python -m benchmarks step_costs --write`` measures them: seconds of a training step, divided by those of ``scratch``
with the same student, whose steps alternate with it. Cached teacher outputs are read; the teachers of methods that
cache none run in every step, and have the student's size. One small pair on a CPU is measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

COSTS = Path(__file__).with_suffix(".json")


def relative_cost(name: str) -> float | None:
    """Seconds of the method's step divided by those of ``scratch``; None if not measured."""
    cost = _measured_costs().get(name)
    return None if cost is None else float(cost)


def format_costs(costs: Mapping[str, float], *, measured_on: str) -> str:
    """Content of the file :data:`COSTS`."""
    rounded = {name: round(cost, 2) for name, cost in costs.items()}
    return json.dumps({"measured_on": measured_on, "relative_to_scratch": rounded}, indent=1) + "\n"


@cache
def _measured_costs() -> Mapping[str, Any]:
    if not COSTS.is_file():
        return {}
    costs: dict[str, Any] = json.loads(COSTS.read_text(encoding="utf-8"))["relative_to_scratch"]
    return costs
