"""Gain in accuracy that a method brings: measured by the quality benchmark, or else as published.

``gains.json`` is written by ``python -m benchmarks quality --report`` from the benchmark's result files.
``published_gains.json`` has figures of papers and their official code, with their sources; they are for ImageNet-1k
and full schedules, so they tell more about the order of methods than about a small dataset.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from core.spec.document import StrictModel

MEASURED = Path(__file__).with_suffix(".json")
PUBLISHED = MEASURED.with_name("published_gains.json")


class Gain(StrictModel):
    """Difference in top-1 to a baseline, in points (1 point: 1 % of the images)."""

    method: str
    teacher: str | None = Field(description="Family of the teacher; null: none.")
    student: str = Field(description="Family of the student.")
    points: float
    over: str = Field(description="The baseline: `labels` is the same student trained with labels alone.")
    setting: str = Field(description="Data, networks and figures.")
    source: str
    half_width: float | None = Field(default=None, description="Half of the 95 % interval; null: not published.")
    is_significant: bool | None = Field(default=None, description="After Holm's correction; null: not published.")
    kind: Literal["measured", "published"]


def find_gain(method: str, *, teacher: str | None, student: str) -> Gain | None:
    """Return the gain of a method for a pair of families: the measured one, else the published one, else None."""
    for gain in _gains():
        if (gain.method, gain.teacher, gain.student) == (method, teacher, student):
            return gain
    return None


def gains_of(method: str) -> tuple[Gain, ...]:
    """Return all gains of a method, the measured ones first."""
    return tuple(gain for gain in _gains() if gain.method == method)


def format_gains(gains: Sequence[Gain]) -> str:
    """Content of the file :data:`MEASURED`."""
    documents = [gain.model_dump(mode="json", exclude={"kind"}) for gain in gains]
    return json.dumps(documents, indent=1, ensure_ascii=False) + "\n"


@cache
def _gains() -> tuple[Gain, ...]:
    files = {"measured": MEASURED, "published": PUBLISHED}
    return tuple(
        Gain.model_validate({**entry, "kind": kind})
        for kind, path in files.items()
        for entry in json.loads(path.read_text(encoding="utf-8"))
    )
