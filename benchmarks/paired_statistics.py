"""Comparisons of arms that were trained with the same seeds.

A seed fixes initial weights, order and augmentation of the images for every arm, so arms are compared by their
differences within a seed. The score of an arm with a seed is modeled as arm + seed + noise, with one variance of the
noise for all arms (a randomized block design). The variance is pooled over all arms: five seeds alone give a poor
estimate. Two arms alone give the paired t-test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05  # of the family of all comparisons

Scores = Mapping[str, Mapping[int, float]]
"""Score by seed, by arm."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviation of the noise of one score, and its degrees of freedom."""

    deviation: float
    degrees: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean difference of ``arm`` to ``baseline`` over shared seeds, and half of its 95 % t interval.

    ``p_value`` is two-sided. ``adjusted`` is the p-value after Holm's correction for all comparisons of the family.
    """

    arm: str
    baseline: str
    difference: float
    half_width: float
    p_value: float
    num_seeds: int
    adjusted: float = math.nan

    @property
    def is_significant(self) -> bool:
        """Whether the corrected p-value is below the level."""
        return self.adjusted < LEVEL


def noise(scores: Scores) -> Noise | None:
    """Return the noise left by the means of arms and seeds; None without degrees of freedom."""
    cells = [(arm, seed, value) for arm, by_seed in scores.items() for seed, value in by_seed.items()]
    arms = {arm: column for column, arm in enumerate(dict.fromkeys(arm for arm, _, _ in cells))}
    seeds = {seed: len(arms) + column for column, seed in enumerate(sorted({seed for _, seed, _ in cells}))}
    design = np.zeros((len(cells), len(arms) + len(seeds)))
    for row, (arm, seed, _) in enumerate(cells):
        design[row, [arms[arm], seeds[seed]]] = 1
    values = np.array([value for _, _, value in cells])
    if not cells:
        return None
    fitted, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    degrees = len(cells) - int(rank)
    if degrees < 1:
        return None
    residual = values - design @ fitted
    return Noise(math.sqrt(float(residual @ residual) / degrees), degrees)


def compare(scores: Scores, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Compare each pair (arm, baseline) that shares at least two seeds, without Holm's correction."""
    pooled = noise(scores)
    if pooled is None:
        return []
    found = []
    for arm, baseline in pairs:
        shared = sorted(scores.get(arm, {}).keys() & scores.get(baseline, {}).keys())
        if len(shared) < 2:
            continue
        difference = float(np.mean([scores[arm][seed] - scores[baseline][seed] for seed in shared]))
        error = pooled.deviation * math.sqrt(2 / len(shared))
        half = float(stats.t.ppf(0.975, pooled.degrees)) * error
        p_value = 2 * float(stats.t.sf(abs(difference) / error, pooled.degrees)) if error else float(difference == 0)
        found.append(Comparison(arm, baseline, difference, half, p_value, len(shared)))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values after Holm's step-down correction (Holm 1979), in the given order."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for position, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - position) * p_values[index]))
        adjusted[int(index)] = largest
    return adjusted
