"""Gains of the methods over labels alone, for the recommendations: ``core/spec/gains.json`` from the results so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.quality.arms import SCRATCH
from benchmarks.quality.comparisons import TEST, Family, Row
from benchmarks.quality.plan import Plan
from core.spec.gains import Gain


def gains(plan: Plan, found: Sequence[Family]) -> list[Gain]:
    """Return one gain for each method and pair of families; that of the first track which has it."""
    first: dict[tuple[str, str | None, str], Gain] = {}
    for gain in _gains(plan, found):
        first.setdefault((gain.method, gain.teacher, gain.student), gain)
    return list(first.values())


def _gains(plan: Plan, found: Sequence[Family]) -> Iterator[Gain]:
    for family in found:
        track = plan.protocol.tracks[family.track]
        kinds = {name: kind for kind, name in track.teachers.items()}
        for row in family.rows if family.metric == TEST else ():
            comparison = family.comparison(row.arm.name, SCRATCH)
            if comparison is None or not _is_default(row):
                continue
            yield Gain(
                method=row.arm.method,
                teacher=kinds.get(row.arm.teachers[0]) if row.arm.teachers else None,
                student=track.family,
                points=round(comparison.difference, 1),
                half_width=round(comparison.half_width, 1),
                is_significant=comparison.is_significant,
                over="labels",
                setting=f"CIFAR-10, {plan.protocol.sizes.train:,} images, {track.title}, {track.epochs} epochs, "
                f"{comparison.num_seeds} seeds: {row.mean:.1f}",
                source="docs/quality.md",
                kind="measured",
            )


def _is_default(row: Row) -> bool:
    """Whether an arm is a method as a user gets it, with teachers of the track: no control, assistant or peer."""
    return row.arm.kind in {"method", "kd"}
