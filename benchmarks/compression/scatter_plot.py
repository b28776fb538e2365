"""An SVG of accuracy against bytes and against latency: numbered points, and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _TOP, _PLOT, _LEFT, _GAP = 1000, 40, 320, 60, 70  # pixels: total, head, height of a panel, margin, between
_LEGEND_ROW, _FOOT = 20, 56
_COLUMNS = 2  # of the legend
_COLOR, _GRID = "#1d4ed8", "#ddd"
_MARGIN = 1.25  # of a logarithmic axis, beyond its points


@dataclass(frozen=True, slots=True)
class Point:
    """One arm: top-1 in percent, the bytes of its file in kB and the latency of one image in ms."""

    name: str
    top1: float
    kilobytes: float
    milliseconds: float


def plot(points: Sequence[Point]) -> str:
    """Return the SVG."""
    width = (_WIDTH - _LEFT - _GAP - 20) / 2
    legend_rows = math.ceil(len(points) / _COLUMNS)
    height = _TOP + _PLOT + _FOOT + _LEGEND_ROW * legend_rows + 16
    panels = (
        ("bytes of the file, kB", [point.kilobytes for point in points], _LEFT),
        ("latency of one image, ms", [point.milliseconds for point in points], _LEFT + width + _GAP),
    )
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13">'
        ),
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-weight="600" fill="#111">top-1, %</text>',
    ]
    for title, values, left in panels:
        parts += _panel(title, values, [point.top1 for point in points], left, width)
    for index, point in enumerate(points):
        column, row = divmod(index, legend_rows)
        x, y = _LEFT + column * (_WIDTH - _LEFT) / _COLUMNS, _TOP + _PLOT + _FOOT + _LEGEND_ROW * row
        parts.append(f'<text x="{x:.0f}" y="{y}" fill="#111">{index + 1}: {escape(point.name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, values: Sequence[float], scores: Sequence[float], left: float, width: float) -> list[str]:
    low, high = math.log(min(values) / _MARGIN), math.log(max(values) * _MARGIN)
    bottom_score, top_score = math.floor(min(scores)) - 1, math.ceil(max(scores)) + 1
    bottom = _TOP + _PLOT

    def x(value: float) -> float:
        return round(left + (math.log(value) - low) / (high - low) * width, 1)

    def y(score: float) -> float:
        return round(bottom - (score - bottom_score) / (top_score - bottom_score) * _PLOT, 1)

    parts = [
        f'<text x="{left + width / 2}" y="{bottom + 36}" text-anchor="middle" fill="#444">{escape(title)}</text>',
        f'<rect x="{left}" y="{_TOP}" width="{width}" height="{_PLOT}" fill="none" stroke="#888"/>',
    ]
    step = max(1, (top_score - bottom_score) // 8)
    for score in range(bottom_score, top_score + 1, step):
        parts += [
            f'<line x1="{left}" x2="{left + width}" y1="{y(score)}" y2="{y(score)}" stroke="{_GRID}"/>',
            f'<text x="{left - 8}" y="{y(score) + 4.5}" text-anchor="end" fill="#444">{score}</text>',
        ]
    for tick in _ticks(math.exp(low), math.exp(high)):
        parts += [
            f'<line x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP}" y2="{bottom}" stroke="{_GRID}"/>',
            f'<text x="{x(tick)}" y="{bottom + 18}" text-anchor="middle" fill="#444">{tick:,g}</text>',
        ]
    for index, (value, score) in enumerate(zip(values, scores, strict=True)):
        parts += [
            f'<circle cx="{x(value)}" cy="{y(score)}" r="4" fill="{_COLOR}"/>',
            f'<text x="{x(value) + 6}" y="{y(score) - 5}" font-size="12" fill="#111">{index + 1}</text>',
        ]
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten inside a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]
