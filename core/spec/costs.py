"""What a training step of each method takes, relative to plain training: measured, and kept beside this file.

``python -m benchmarks methods_over_rest --write-costs`` measures them: the seconds of a training step with the
teachers' forward passes, over those of ``scratch`` with the same student, on one small pair and a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

COSTS = Path(__file__).with_suffix(".json")


def relative_cost(name: str) -> float | None:
    """Seconds of a step of the method over those of ``scratch``; None where it was not measured."""
    found = _measured().get(name)
    return None if found is None else float(found)


def costs_document(costs: Mapping[str, float], *, measured_on: str) -> str:
    """What is kept in :data:`COSTS`."""
    rounded = {name: round(cost, 2) for name, cost in costs.items()}
    return json.dumps({"measured_on": measured_on, "relative_to_scratch": rounded}, indent=1) + "\n"


@cache
def _measured() -> Mapping[str, Any]:
    if not COSTS.is_file():
        return {}
    found: dict[str, Any] = json.loads(COSTS.read_text(encoding="utf-8"))["relative_to_scratch"]
    return found
