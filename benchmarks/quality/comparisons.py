"""Scores of the finished runs of the quality benchmark, and their comparisons with significance."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.paired_statistics import Comparison, Noise, compare, holm, noise
from benchmarks.quality.arms import SCRATCH, Arm
from benchmarks.quality.plan import Plan
from benchmarks.quality.results import Result

TEST, NEIGHBORS = "test_top1", "test_neighbors_top1"


@dataclass(frozen=True, slots=True)
class Row:
    """All finished seeds of one arm; ``scores`` are top-1 on the test split in percent, by seed."""

    arm: Arm
    scores: dict[int, float]
    results: tuple[Result, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds, in percent."""
        return statistics.fmean(self.scores.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds, in points; None for a single seed."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None

    @property
    def learning_rate(self) -> float:
        """The tuned learning rate."""
        return float(self.results[0]["learning_rate"])


@dataclass(frozen=True, slots=True)
class Family:
    """Arms that are scored alike: the students of a track, by their classifier or by nearest neighbors."""

    track: str
    metric: str
    rows: tuple[Row, ...]
    noise: Noise | None
    comparisons: tuple[Comparison, ...]

    def row(self, name: str) -> Row | None:
        """Return the row of an arm by its name."""
        return next((row for row in self.rows if row.arm.name == name), None)

    def comparison(self, arm: str, baseline: str | None) -> Comparison | None:
        """Return the comparison of two arms by their names."""
        return next((each for each in self.comparisons if (each.arm, each.baseline) == (arm, baseline)), None)


def families(plan: Plan) -> list[Family]:
    """Return all families with at least one score. Holm's correction covers the comparisons of all of them."""
    found = [family for family in _families(plan) if family.rows]
    comparisons = [each for family in found for each in family.comparisons]
    adjusted = iter(holm([each.p_value for each in comparisons]))
    return [
        replace(family, comparisons=tuple(replace(each, adjusted=next(adjusted)) for each in family.comparisons))
        for family in found
    ]


def _families(plan: Plan) -> Iterator[Family]:
    for track in plan.protocol.tracks:
        arms = [arm for arm in plan.arms if arm.track == track]
        yield _family(plan, track, TEST, [arm for arm in arms if not arm.is_headless])
        headless = [arm for arm in arms if arm.is_headless]
        compared = {SCRATCH} | {arm.baseline for arm in headless}
        if headless:
            yield _family(plan, track, NEIGHBORS, [arm for arm in arms if arm.is_headless or arm.name in compared])


def _family(plan: Plan, track: str, metric: str, arms: Sequence[Arm]) -> Family:
    rows = [row for arm in arms if (row := _row(plan, arm, metric)) is not None]
    scores = {row.arm.name: row.scores for row in rows}
    pairs = []
    for row in rows:
        if metric == NEIGHBORS and not row.arm.is_headless:
            continue
        baselines = (row.arm.baseline, None if row.arm.name == SCRATCH else SCRATCH)
        pairs += [(row.arm.name, baseline) for baseline in baselines if baseline is not None]
    return Family(track, metric, tuple(rows), noise(scores), tuple(compare(scores, pairs)))


def _row(plan: Plan, arm: Arm, metric: str) -> Row | None:
    found = {step.seed: plan.result(step) for step in plan.seeds(arm)}
    results = {seed: result for seed, result in found.items() if result is not None and metric in result}
    scores = {seed: 100 * result[metric] for seed, result in results.items()}
    return Row(arm, scores, tuple(results.values())) if scores else None
