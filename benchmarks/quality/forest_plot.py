"""An SVG forest plot: the difference of each arm to its baseline, with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.paired_statistics import Comparison

_WIDTH, _LEFT, _RIGHT = 1000, 330, 190  # pixels: total, names, values
_ROW, _TITLE, _FOOT = 22, 40, 40
_MIN_RANGE = 2.0  # points on either side of zero
_COLORS = {"better": "#1a7f37", "worse": "#c2410c", "no difference": "#666"}


def verdict(comparison: Comparison) -> str:
    """Return ``better``, ``worse`` or ``no difference``, by significance."""
    if not comparison.is_significant:
        return "no difference"
    return "better" if comparison.difference > 0 else "worse"


@dataclass(frozen=True, slots=True)
class Panel:
    """One group of comparisons under a title."""

    title: str
    comparisons: Sequence[Comparison]


@dataclass(frozen=True, slots=True)
class _Axis:
    limit: float

    def x(self, points: float) -> float:
        """Return the x position in pixels; values beyond the limit are drawn at it."""
        inside = min(max(points, -self.limit), self.limit)
        return round(_LEFT + (inside / self.limit + 1) / 2 * (_WIDTH - _LEFT - _RIGHT), 1)


def plot(panels: Sequence[Panel]) -> str:
    """Return the SVG of all panels on one axis; each panel is sorted by the difference."""
    shown = [panel for panel in panels if panel.comparisons]
    ends = [abs(each.difference) + each.half_width for panel in shown for each in panel.comparisons]
    axis = _Axis(max(_MIN_RANGE, *ends, 0.0) * 1.05)
    height = sum(_TITLE + _ROW * len(panel.comparisons) for panel in shown) + _FOOT
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13">'
        ),
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    top = 0
    for panel in shown:
        parts += _panel(panel, axis, top)
        top += _TITLE + _ROW * len(panel.comparisons)
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts += [
        f'<text x="{middle}" y="{top + 24}" text-anchor="middle" fill="#444">difference in points of top-1</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, axis: _Axis, top: int) -> list[str]:
    bottom = top + _TITLE + _ROW * len(panel.comparisons)
    parts = [f'<text x="16" y="{top + 26}" font-weight="600" fill="#111">{escape(panel.title)}</text>']
    step = 1 if axis.limit <= 6 else 5
    for tick in range(-int(axis.limit // step) * step, int(axis.limit) + 1, step):
        color, width = ("#444", 1.5) if tick == 0 else ("#ddd", 1)
        x = axis.x(tick)
        parts += [
            f'<line x1="{x}" x2="{x}" y1="{top + _TITLE}" y2="{bottom}" stroke="{color}" stroke-width="{width}"/>',
            f'<text x="{x}" y="{top + _TITLE - 6}" text-anchor="middle" font-size="11" fill="#444">{tick:+d}</text>',
        ]
    ordered = sorted(panel.comparisons, key=lambda each: -each.difference)
    return [*parts, *(part for index, each in enumerate(ordered) for part in _row(each, axis, top, index))]


def _row(comparison: Comparison, axis: _Axis, top: int, index: int) -> list[str]:
    y = top + _TITLE + _ROW * index + _ROW / 2
    color = _COLORS[verdict(comparison)]
    low, high = (axis.x(comparison.difference + sign * comparison.half_width) for sign in (-1, 1))
    name = f"{comparison.arm} − {comparison.baseline}"
    value = f"{comparison.difference:+.1f} ± {comparison.half_width:.1f}  {verdict(comparison)}"
    return [
        f'<text x="{_LEFT - 14}" y="{y + 4.5}" text-anchor="end" fill="#111">{escape(name)}</text>',
        f'<line x1="{low}" x2="{high}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="2"/>',
        f'<circle cx="{axis.x(comparison.difference)}" cy="{y}" r="4" fill="{color}"/>',
        f'<text x="{_WIDTH - _RIGHT + 14}" y="{y + 4.5}" fill="{color}">{escape(value)}</text>',
    ]
