"""Benchmark figures, in the form that ``docs/speed.md`` is made from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, machine, write_json


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: median, minimum and maximum of ``repeats`` measurements in one run.

    ``goal`` is a bound such as ``≥ 2`` or ``≤ 1.03``, or None.
    """

    question: str
    value: float
    unit: str
    goal: str | None
    spread: tuple[float, float]
    repeats: int
    detail: str = ""

    def __str__(self) -> str:
        low, high = self.spread
        goal = "" if self.goal is None else f", goal {self.goal}"
        return f"{self.question}: {self.value:.3g} {self.unit} ({low:.3g} to {high:.3g}, {self.repeats} repeats{goal})"


def figure(
    question: str,
    values: Sequence[float],
    unit: str,
    *,
    goal: str | None = None,
    detail: str = "",
    percentile: int | None = None,
) -> Figure:
    """Return the figure of the median of ``values``, or of their percentile."""
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
    """Return the figure of ``above / below`` by pairs. Pairs are measured one after the other, so load affects both."""
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


def save_figures(
    name: str, description: str, figures: Sequence[Figure], *, path: Path | None = None, **more: Any
) -> Path:
    """Print the figures and write them with the machine's description; ``more`` holds raw measurements."""
    for each in figures:
        print(each, flush=True)
    target = path or RESULTS / f"{name}.json"
    document = {"description": description, "machine": machine(), "figures": [asdict(each) for each in figures], **more}
    write_json(target, document)
    print(f"written to {target}", flush=True)
    return target
