"""Means over seeds, and paired differences to the float student of the same seed.

Each comparison is a paired t-test of its own: the noise of a step without training is far smaller than that of one
that trains, so a pooled variance would be wrong for both.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.compression.plan import FLOAT
from benchmarks.paired_statistics import Comparison, compare
from benchmarks.quality.results import Result

Key = tuple[str, str]
"""Arm and format of its files."""


@dataclass(frozen=True, slots=True)
class Arm:
    """All seeds of one arm. ``scores`` are top-1 on the test split in percent, by seed.

    ``difference`` is that to the float student. ``times_smaller`` compares with the float file of the same format.
    """

    name: str
    format: str
    scores: Mapping[int, float]
    difference: Comparison | None
    mean_difference: float
    size_bytes: float
    times_smaller: float
    latency_ms: float
    flops_fraction: float | None

    @property
    def mean(self) -> float:
        """Mean top-1 over the seeds, in percent."""
        return statistics.fmean(self.scores.values())


def arms(results: Iterable[Result]) -> list[Arm]:
    """Return the arms of all finished runs, in the order of the runs. Arms without the float file are left out."""
    found: dict[Key, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        for row in result.get("rows", ()):
            if row["top1"] is not None:
                found.setdefault((row["arm"], row["format"]), {})[result["seed"]] = row
    return [_arm(key, rows, found[FLOAT, key[1]]) for key, rows in found.items() if (FLOAT, key[1]) in found]


def _arm(key: Key, rows: Mapping[int, Mapping[str, Any]], floats: Mapping[int, Mapping[str, Any]]) -> Arm:
    shared = sorted(rows.keys() & floats.keys())
    scores = {seed: 100 * row["top1"] for seed, row in rows.items()}
    differences = [scores[seed] - 100 * floats[seed]["top1"] for seed in shared]
    flops = [rows[seed]["flops"] / floats[seed]["flops"] for seed in shared if rows[seed].get("flops")]
    size = statistics.fmean(row["size_bytes"] for row in rows.values())
    return Arm(
        name=key[0],
        format=key[1],
        scores=scores,
        difference=paired(scores, {seed: 100 * row["top1"] for seed, row in floats.items()}),
        mean_difference=statistics.fmean(differences) if differences else 0.0,
        size_bytes=size,
        times_smaller=statistics.fmean(row["size_bytes"] for row in floats.values()) / size,
        latency_ms=statistics.median(row["latency_ms"] for row in rows.values()),
        flops_fraction=statistics.fmean(flops) if flops else None,
    )


def paired(scores: Mapping[int, float], others: Mapping[int, float]) -> Comparison | None:
    """Compare two arms by their shared seeds; None for fewer than two."""
    found = compare({"arm": scores, "other": others}, [("arm", "other")])
    return found[0] if found else None


def find(found: Sequence[Arm], name: str) -> Arm | None:
    """Return an arm by its name."""
    return next((arm for arm in found if arm.name == name), None)
