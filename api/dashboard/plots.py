"""Scatter plots of accuracy against a cost, as coordinates for an SVG. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from api.dashboard import formats
from api.dashboard.comparison import Cost, Point
from api.pareto import pareto_front

WIDTH, HEIGHT = 360, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 34  # margins
_NUM_COLORS = 6
_MIN_LOG_RATIO = 8.0  # between the largest and the smallest cost of a logarithmic axis


@dataclass(frozen=True, slots=True)
class Mark:
    """A point with its position and the number of its color."""

    x: float
    y: float
    number: int
    color: int
    title: str
    is_compressed: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick of an axis: its position and its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot. ``front`` are the corners of the Pareto front's line, as the attribute ``points`` of a polyline."""

    label: str
    marks: Sequence[Mark]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    front: str
    summary: str


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.is_log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)


def pareto_plot(found: Sequence[Point], cost: Cost) -> Plot | None:
    """Return the plot of top-1 against a cost; None with fewer than two points."""
    if len(found) < 2:
        return None
    costs, accuracies = [point.cost for point in found], [point.top1 for point in found]
    x = _cost_axis(min(costs), max(costs))
    low, high = max(0.0, min(accuracies) - 0.01), min(1.0, max(accuracies) + 0.01)
    y = _Axis(low, high, HEIGHT - BOTTOM, TOP)
    front = pareto_front(found, cost=lambda point: point.cost, value=lambda point: point.top1)
    corners = [f"{x(point.cost)},{y(point.top1)}" for point in front]
    names = ", ".join(f"{point.label} ({formats.percent(point.top1)}, {cost.form(point.cost)})" for point in front)
    return Plot(
        label=cost.label,
        marks=[_mark(point, x, y, cost) for point in found],
        x_ticks=[Tick(x(value), cost.form(value)) for value in _cost_ticks(x)],
        y_ticks=[Tick(y(value), formats.percent(value, 0 if step >= 0.01 else 1)) for value, step in _steps(low, high)],
        front=" ".join(corners),
        summary=f"Top-1 against {cost.label.lower()}. Best for their cost: {names}.",
    )


def _mark(point: Point, x: _Axis, y: _Axis, cost: Cost) -> Mark:
    title = f"{point.number}. {point.label}: {formats.percent(point.top1)}, {cost.form(point.cost)}"
    color = (point.number - 1) % _NUM_COLORS + 1
    return Mark(x(point.cost), y(point.top1), point.number, color, title, point.is_compressed)


def _cost_axis(low: float, high: float) -> _Axis:
    is_log = high / low >= _MIN_LOG_RATIO
    if is_log:
        return _Axis(low / 1.3, high * 1.3, LEFT, WIDTH - RIGHT, is_log=True)
    margin = (high - low) * 0.1 or high * 0.1
    return _Axis(max(0.0, low - margin), high + margin, LEFT, WIDTH - RIGHT)


def _cost_ticks(axis: _Axis) -> list[float]:
    if not axis.is_log:
        return [value for value, _ in _steps(axis.low, axis.high, count=4)]
    exponents = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    decades = [10.0**exponent for exponent in exponents]
    ticks = decades if len(decades) > 3 else [factor * decade for decade in decades for factor in (1, 2, 5)]
    inside = [tick for tick in ticks if axis.low <= tick <= axis.high]
    return inside[:: max(1, math.ceil(len(inside) / 5))]


def _steps(low: float, high: float, *, count: int = 5) -> list[tuple[float, float]]:
    """Return round values from low to high, each with the distance between them."""
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [(index * step, step) for index in range(first, last + 1)]
