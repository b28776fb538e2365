"""Section of the model card on the compression steps: the outcome of each, and its figures against the student's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COLUMNS = ("step", "outcome", "file", "top-1", "change in points", "MB", "ms per image")
_NOTE = (
    "The gate of each step judges its output on images that are held out of the training; the table has the figures on "
    "the test split. A rejected output is not published."
)


def compression_section(result: Mapping[str, Any]) -> list[str]:
    """Return heading, table and reasons, from the job result; empty for a job without compression steps."""
    entries = result.get("compressed") or []
    if not entries:
        return []
    student = result["student"]
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{' --- |' * len(_COLUMNS)}"]
    lines.append(_row("—", "uncompressed student", "model.safetensors", student, None))
    lines += [
        _row(f"{entry['step']} {entry['name']}", entry["status"], entry["artifact"], entry, student)
        for entry in entries
    ]
    reasons = [
        f"- Step {entry['step']} ({entry['name']}) is {entry['status']}: {entry['reason']}."
        for entry in entries
        if entry["reason"] is not None
    ]
    return ["## Compression", "\n".join(lines), *(["\n".join(reasons)] if reasons else []), _NOTE]


def _row(
    step: str, outcome: str, artifact: str | None, metrics: Mapping[str, Any], student: Mapping[str, Any] | None
) -> str:
    top1, reference = metrics["top1"], None if student is None else student["top1"]
    change = None if top1 is None or reference is None else 100 * (top1 - reference)
    cells = (
        step,
        outcome,
        "—" if artifact is None else f"`{artifact}`",
        _number(None if top1 is None else 100 * top1, "{:.2f} %"),
        _number(change, "{:+.2f}"),
        _number(None if metrics["size_bytes"] is None else metrics["size_bytes"] / 1e6, "{:.2f}"),
        _number(metrics["latency_ms"], "{:.2f}"),
    )
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str) -> str:
    return "—" if value is None else form.format(value)
