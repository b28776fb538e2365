"""An SVG plot of all figures with a goal: the margin of each, independent of its unit."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

_AT_LEAST, _AT_MOST = "≥", "≤"
_WORDS = {"≥": _AT_LEAST, ">": _AT_LEAST, ">=": _AT_LEAST, "at least": _AT_LEAST,
          "≤": _AT_MOST, "<": _AT_MOST, "<=": _AT_MOST, "at most": _AT_MOST, "": _AT_MOST}  # fmt: skip
_GOAL = re.compile(r"\s*(≥|≤|>=|<=|>|<|at least|at most|)\s*([0-9][0-9.,]*(?:e[-+]?\d+)?)")

_EPSILON = 1e-9  # allows a goal of zero

_WIDTH, _LEFT, _RIGHT = 1000, 410, 190  # pixels: total, question column, value column
_ROW, _HEAD, _FOOT = 42, 30, 44
_MAX_MARGIN = 10.0  # margins beyond it are drawn at the border
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10)
_WRAP = 58  # characters per line of a question


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound and its direction."""

    side: Literal["≥", "≤"]
    bound: float

    @classmethod
    def parse(cls, text: str | float | None) -> Goal | None:
        """Parse ``≥ 2``, ``< 0.1 s`` or ``at most 3``; a bare number is an upper bound. None without a bound."""
        found = _GOAL.match(str(text)) if text is not None else None
        if found is None:
            return None
        return cls(_WORDS[found[1]], float(found[2].replace(",", "")))  # type: ignore[arg-type]

    def met(self, value: float) -> bool:
        """Whether a value meets the goal."""
        return value >= self.bound if self.side == _AT_LEAST else value <= self.bound

    def margin(self, value: float) -> float:
        """Return how many times better than the bound a value is; below 1, it is worse."""
        value, bound = value + _EPSILON, self.bound + _EPSILON
        return value / bound if self.side == _AT_LEAST else bound / value

    def __str__(self) -> str:
        return f"{self.side} {self.bound:g}"


def number(value: float) -> str:
    """Format with three significant digits, without an exponent below ten million."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}" if digits < 7 else f"{value:.2g}"


def plot(figures: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of the figures that have a goal."""
    rows = [(figure, goal) for figure in figures if (goal := Goal.parse(figure["goal"])) is not None]
    margins = [goal.margin(value) for figure, goal in rows for value in (figure["value"], *figure["spread"])]
    axis = _Axis.around(margins)
    bottom = _HEAD + _ROW * len(rows)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + _FOOT}" width="{_WIDTH}" '
            f'height="{bottom + _FOOT}" font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13">'
        ),
        '<rect width="100%" height="100%" fill="white"/>',
        *axis.draw(bottom),
        *(part for index, (figure, goal) in enumerate(rows) for part in _row(figure, goal, axis, index)),
        (
            f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{bottom + 38}" text-anchor="middle" fill="#444">'
            "times better than the goal (at most 10)</text>"
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic axis of margins."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, margins: Sequence[float]) -> _Axis:
        """Return the axis that covers all margins and the goal at 1, within the maximum margin."""
        low = max(min(margins, default=1.0), 1 / _MAX_MARGIN)
        high = min(max(margins, default=1.0), _MAX_MARGIN)
        low, high = min(low, 0.8) / 1.1, max(high, 1.25) * 1.1
        return cls(low, high, tuple(tick for tick in _TICKS if low <= tick <= high))

    def x(self, margin: float) -> float:
        """Return the x position in pixels."""
        inside = min(max(margin, self.low), self.high)
        fraction = math.log(inside / self.low) / math.log(self.high / self.low)
        return round(_LEFT + fraction * (_WIDTH - _RIGHT - _LEFT), 1)

    def draw(self, bottom: int) -> list[str]:
        """Return the ticks and the line of the goal."""
        parts = []
        for tick in self.ticks:
            x, at_goal = self.x(tick), tick == 1
            color, width = ("#444", 1.5) if at_goal else ("#ddd", 1)
            parts += [
                f'<line x1="{x}" x2="{x}" y1="{_HEAD - 4}" y2="{bottom}" stroke="{color}" stroke-width="{width}"/>',
                f'<text x="{x}" y="{bottom + 18}" text-anchor="middle" fill="#444">{tick:g}×</text>',
            ]
        goal = f'<text x="{self.x(1)}" y="{_HEAD - 10}" text-anchor="middle" fill="#444">goal</text>'
        return [*parts, goal]


def _row(figure: Mapping[str, Any], goal: Goal, axis: _Axis, index: int) -> list[str]:
    middle = _HEAD + _ROW * index + _ROW / 2
    color = "#1a7f37" if goal.met(figure["value"]) else "#c2410c"
    ends = sorted(axis.x(goal.margin(value)) for value in figure["spread"])
    lines = textwrap.wrap(figure["question"], _WRAP)[:2]
    parts = [
        f'<text x="{_LEFT - 16}" y="{middle + 4.5 + 16 * (number_ - (len(lines) - 1) / 2)}" text-anchor="end" '
        f'fill="#111">{escape(line)}</text>'
        for number_, line in enumerate(lines)
    ]
    value = f"{number(figure['value'])} {figure['unit']}"
    return [
        *parts,
        (
            f'<line x1="{ends[0]}" x2="{ends[1]}" y1="{middle}" y2="{middle}" stroke="{color}" stroke-width="4" '
            'stroke-opacity="0.35" stroke-linecap="round"/>'
        ),
        f'<circle cx="{axis.x(goal.margin(figure["value"]))}" cy="{middle}" r="5" fill="{color}"/>',
        (
            f'<text x="{_WIDTH - _RIGHT + 16}" y="{middle + 4.5}" fill="#111">{escape(value)}'
            f'<tspan fill="#666">  ({goal})</tspan></text>'
        ),
    ]
