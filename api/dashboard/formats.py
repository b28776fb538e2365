"""How numbers, sizes and times read on a page. Every filter of the templates is here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
UNKNOWN = "—"


def percent(fraction: float | None) -> str:
    """``0.9132`` as ``91.3%``."""
    return UNKNOWN if fraction is None else f"{fraction:.1%}"


def short(number: float | None) -> str:
    """Three digits and a unit: ``205 k``, ``1.2 M``."""
    if number is None:
        return UNKNOWN
    for limit, unit in _UNITS:
        if abs(number) >= limit * 0.9995:  # 999,600 is 1 M, not 1e+03 k
            return f"{number / limit:.3g} {unit}"
    return f"{number:.3g}"


def size(num_bytes: float | None) -> str:
    """A size in decimal units: ``4.8 MB``."""
    if num_bytes is None:
        return UNKNOWN
    text = short(num_bytes)
    return f"{text}B" if num_bytes >= 999.5 else f"{num_bytes:.0f} B"


def milliseconds(value: float | None) -> str:
    """``1.93 ms``."""
    return UNKNOWN if value is None else f"{value:.3g} ms"


def duration(seconds: float | None) -> str:
    """``0.4 s``, ``45 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds is None:
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def ago(moment: datetime, *, now: datetime | None = None) -> str:
    """How long ago something was, to the precision that a person would use."""
    seconds = max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds())
    for limit, length, unit in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (30 * 86_400, 86_400, "d")):
        if seconds < limit:
            amount = int(seconds // length)
            return "just now" if amount == 0 or (unit == "s" and amount < 5) else f"{amount} {unit} ago"
    return moment.strftime("%-d %b %Y")


def moment(value: str | datetime) -> datetime:
    """An RFC 3339 text as a time; a time as it is."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def iso(value: str | datetime) -> str:
    """For ``<time datetime>``."""
    return moment(value).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def clock(value: str | datetime) -> str:
    """The time of day in UTC; the page's script turns it into the reader's own."""
    return moment(value).astimezone(UTC).strftime("%H:%M:%S")


def times(factor: float | None) -> str:
    """How many times: ``12×``, ``1.4×``."""
    if factor is None:
        return UNKNOWN
    return f"{factor:.0f}×" if factor >= 9.95 else f"{factor:.1f}×"


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": percent,
    "short": short,
    "size": size,
    "milliseconds": milliseconds,
    "duration": duration,
    "ago": lambda value: ago(moment(value)),
    "iso": iso,
    "clock": clock,
    "times": times,
}
