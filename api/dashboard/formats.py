"""Formatting of numbers, sizes and times: the filters of the templates."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from core.job_warnings import JobWarning

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
UNKNOWN = "—"


def percent(fraction: float | None, digits: int = 1) -> str:
    """Format ``0.9132`` as ``91.3 %``, with a space that does not break."""
    return UNKNOWN if fraction is None else f"{100 * fraction:.{digits}f}\u00a0%"


def completed(fraction: float) -> str:
    """Format a share of work as ``99 %``: rounded down, so that 100 % means all of it."""
    return f"{int(100 * fraction + 1e-9)}\u00a0%"


def unbroken(text: str) -> str:
    """Keep each number and its percent sign on one line."""
    return text.replace(" %", "\u00a0%")


def points(difference: float | None) -> str:
    """Format a difference of accuracies in percentage points, with its sign: ``+1.2``."""
    return UNKNOWN if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def short(number: float | None) -> str:
    """Format with three digits and a unit: ``205 k``, ``1.2 M``."""
    if number is None:
        return UNKNOWN
    for limit, unit in _UNITS:
        if abs(number) >= limit * 0.9995:  # 999,600 is 1 M, not 1e+03 k
            return f"{number / limit:.3g} {unit}"
    return f"{number:.3g}"


def size(num_bytes: float | None) -> str:
    """Format a size in decimal units: ``4.8 MB``."""
    if num_bytes is None:
        return UNKNOWN
    text = short(num_bytes)
    return f"{text}B" if num_bytes >= 999.5 else f"{num_bytes:.0f} B"


def milliseconds(value: float | None) -> str:
    """Format as ``1.93 ms``."""
    return UNKNOWN if value is None else f"{value:.3g} ms"


def duration(seconds: float | None) -> str:
    """Format as ``0.4 s``, ``45 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    if seconds is None:
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def ago(time: datetime, *, now: datetime | None = None) -> str:
    """Format a time relative to now: ``just now``, ``3 min ago``; after 30 days as a date."""
    seconds = max(0.0, ((now or datetime.now(UTC)) - time).total_seconds())
    for limit, length, unit in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (30 * 86_400, 86_400, "d")):
        if seconds < limit:
            amount = int(seconds // length)
            return "just now" if amount == 0 or (unit == "s" and amount < 5) else f"{amount} {unit} ago"
    return time.strftime("%-d %b %Y")


def until(time: datetime, *, now: datetime | None = None) -> str:
    """Format a time in the future relative to now: ``in 3 h``; after 30 days as a date."""
    now = now or datetime.now(UTC)
    if time - now >= timedelta(days=30):
        return time.strftime("%-d %b %Y")
    text = ago(now, now=max(now, time)).removesuffix(" ago")
    return "now" if text == "just now" else f"in {text}"


def parse_time(value: str | datetime) -> datetime:
    """Parse an RFC 3339 text; return a datetime unchanged."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def iso(value: str | datetime) -> str:
    """Format for ``<time datetime>``."""
    return parse_time(value).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def clock(value: str | datetime) -> str:
    """Format the time of day in UTC; the page's script converts it to the local time zone."""
    return parse_time(value).astimezone(UTC).strftime("%H:%M:%S")


def times(factor: float | None) -> str:
    """Format a factor: ``12×``, ``1.4×``."""
    if factor is None:
        return UNKNOWN
    return f"{factor:.0f}×" if factor >= 9.95 else f"{factor:.1f}×"


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": percent,
    "completed": completed,
    "points": points,
    "short": short,
    "size": size,
    "milliseconds": milliseconds,
    "duration": duration,
    "ago": lambda value: ago(parse_time(value)),
    "until": lambda value: until(parse_time(value)),
    "iso": iso,
    "clock": clock,
    "times": times,
    "warning_text": lambda warning: unbroken(JobWarning.model_validate(warning).text),
    "unbroken": unbroken,
}
