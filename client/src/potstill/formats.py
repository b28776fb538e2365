"""Text of numbers, times and untrusted strings for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.markup import escape


def escape_text(text: str) -> str:
    """Escape untrusted text: rich markup and terminal control characters."""
    return escape(plain_text(text))


def plain_text(text: str) -> str:
    """Escape the terminal control characters of untrusted text."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1] for character in text
    )


def format_sentence(text: str) -> str:
    """Return text as a sentence: with a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def format_count(number: int | None) -> str:
    """Format a count, or a dash for None."""
    return "—" if number is None else f"{number:,}"


def format_quantity(number: float | None) -> str:
    """Format with three digits and a unit: ``205 k``, ``1.2 M``; a dash for None."""
    if number is None:
        return "—"
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit * 0.9995:  # 999,600 is 1 M, not 1e+03 k
            return f"{number / limit:.3g} {unit}"
    return f"{number:.3g}"


def format_bytes(num_bytes: float | None) -> str:
    """Format a size in decimal units; a dash for None."""
    if num_bytes is None:
        return "—"
    return f"{format_quantity(num_bytes)}B" if num_bytes >= 999.5 else f"{num_bytes:.0f} B"


def format_percent(fraction: float | None, digits: int = 1) -> str:
    """Format an accuracy: ``91.3 %``; a dash for None (unlabeled dataset)."""
    return "—" if fraction is None else f"{100 * fraction:.{digits}f} %"


def format_milliseconds(milliseconds: float | None) -> str:
    """Format a latency; a dash for None."""
    return "—" if milliseconds is None else f"{milliseconds:.2f} ms"


def format_duration(seconds: float | None) -> str:
    """Format a duration: ``45 s``, ``3 min 05 s``, ``2 h 10 min``; a dash for None."""
    if seconds is None:
        return "—"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def format_teacher(index: int, num_teachers: int) -> str:
    """Name a teacher of a job: ``teacher``, or ``teacher 0`` where the job has several."""
    return "teacher" if num_teachers == 1 else f"teacher {index}"


def format_age(time: datetime) -> str:
    """Format the age of a time in its largest unit: ``45 s ago``, ``3 min ago``, ``2 days ago``."""
    seconds = max(0.0, (datetime.now(UTC) - time).total_seconds())
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            rounded = int(seconds // length)
            return f"{rounded} {'day' if unit == 'days' and rounded == 1 else unit} ago"
    return f"{int(seconds)} s ago"


def format_gain(gain: float | None, interval: tuple[float, float] | None) -> str:
    """Format a difference of two fractions in points, with its 95 % interval; a dash for None."""
    if gain is None:
        return "—"
    text = f"{100 * gain:+.1f} points"
    if interval is None:
        return text
    low, high = (f"{100 * value:+.1f}" for value in interval)
    return f"{text} (95 % interval {low} to {high})"
