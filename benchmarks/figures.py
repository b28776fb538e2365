"""What a benchmark found, in the one form that the page on speed is made of."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, machine, write_json


@dataclass(frozen=True, slots=True)
class Figure:
    """The answer to one question: the median of ``repeats`` measurements in one run, and the least and the most.

    ``goal`` is a bound in words, ``≥ 2`` or ``≤ 1.03``; None where there is none.
    """

    question: str
    value: float
    unit: str
    goal: str | None
    spread: tuple[float, float]
    repeats: int
    detail: str = ""

    def __str__(self) -> str:
        least, most = self.spread
        goal = "" if self.goal is None else f", goal {self.goal}"
        return (
            f"{self.question}: {self.value:.3g} {self.unit} ({least:.3g} to {most:.3g}, {self.repeats} repeats{goal})"
        )


def figure(
    question: str,
    values: Sequence[float],
    unit: str,
    *,
    goal: str | None = None,
    detail: str = "",
    percentile: int | None = None,
) -> Figure:
    """The median of what was measured, or that percentile of it."""
    ordered = sorted(values)
    if percentile is None:
        value = statistics.median(ordered)
    else:
        value = ordered[min(len(ordered) - 1, len(ordered) * percentile // 100)]
    spread = (round(ordered[0], 3), round(ordered[-1], 3))
    return Figure(question, round(value, 3), unit, goal, spread, len(ordered), detail)


def ratio(
    question: str, above: Sequence[float], below: Sequence[float], *, goal: str | None = None, detail: str = ""
) -> Figure:
    """``above / below``, pair by pair: what was measured side by side is compared, so that a slow minute hits both."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return Figure(
        question=question,
        value=round(statistics.median(ratios), 4),
        unit="×",
        goal=goal,
        spread=(round(min(ratios), 4), round(max(ratios), 4)),
        repeats=len(ratios),
        detail=detail,
    )


def keep(name: str, about: str, figures: Sequence[Figure], *, path: Path | None = None, **more: Any) -> Path:
    """Print the figures and write them beside the machine that they were taken on; ``more`` are raw measurements."""
    for each in figures:
        print(each, flush=True)
    target = path or RESULTS / f"{name}.json"
    document = {"about": about, "machine": machine(), "figures": [asdict(each) for each in figures], **more}
    write_json(target, document)
    print(f"written to {target}", flush=True)
    return target
