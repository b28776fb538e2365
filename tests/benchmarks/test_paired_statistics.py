"""Paired comparisons with a pooled variance, against scipy and values computed by hand."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.paired_statistics import Comparison, compare, holm, noise

SEEDS = range(5)


def drawn(arms, *, seed=0, deviation=1.0):
    """Scores: mean of the arm + effect of the seed + noise."""
    draws = np.random.default_rng(seed)
    effects = draws.normal(0, 5, len(SEEDS))
    return {
        arm: {s: float(mean + effects[s] + draws.normal(0, deviation)) for s in SEEDS} for arm, mean in arms.items()
    }


def test_two_arms_are_the_paired_t_test():
    scores = drawn({"kd": 45.0, "dkd": 46.0})
    ours, kd = ([scores[arm][s] for s in SEEDS] for arm in ("dkd", "kd"))
    expected = stats.ttest_rel(ours, kd)

    (found,) = compare(scores, [("dkd", "kd")])

    interval = expected.confidence_interval(0.95)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.difference - found.half_width == pytest.approx(interval.low, rel=1e-9)
    assert found.difference + found.half_width == pytest.approx(interval.high, rel=1e-9)
    assert found.num_seeds == 5


def test_the_variance_is_the_residual_of_a_two_way_analysis():
    # Cell residuals after the means of arms and seeds are ±1 in a 2 × 2 pattern: 4 of them, sum of squares 4.
    scores = {"a": {0: 11.0, 1: 19.0}, "b": {0: 9.0, 1: 21.0}}

    found = noise(scores)

    assert found.degrees == 1
    assert found.deviation == pytest.approx(2.0)


def test_the_variance_is_pooled_over_arms_and_seeds():
    scores = drawn({f"arm{index}": 40.0 for index in range(30)}, deviation=0.7)

    found = noise(scores)

    assert found.degrees == 29 * 4
    assert found.deviation == pytest.approx(0.7, rel=0.2)


def test_the_effect_of_a_seed_is_no_noise():
    scores = {arm: {s: mean + 10.0 * s for s in SEEDS} for arm, mean in {"a": 1.0, "b": 2.0, "c": 4.0}.items()}

    assert noise(scores).deviation == pytest.approx(0, abs=1e-9)


def test_only_shared_seeds_are_compared():
    scores = drawn({"kd": 45.0, "dkd": 45.0, "late": 45.0})
    scores["late"] = {0: scores["late"][0], 1: scores["late"][1], 9: 90.0}

    late, dkd = compare(scores, [("late", "kd"), ("dkd", "kd")])

    assert late.num_seeds == 2
    assert late.difference == pytest.approx(np.mean([scores["late"][s] - scores["kd"][s] for s in (0, 1)]))
    assert late.half_width == pytest.approx(dkd.half_width * np.sqrt(5 / 2))


@pytest.mark.parametrize("scores", [{}, {"a": {0: 1.0}}, {"a": {0: 1.0}, "b": {0: 2.0}}, {"a": {0: 1.0, 1: 2.0}}])
def test_without_degrees_of_freedom_nothing_is_compared(scores):
    assert noise(scores) is None
    assert compare(scores, [("a", "b")]) == []


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; then the running maximum.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_significance_is_that_of_the_corrected_value():
    def compared(adjusted):
        return Comparison("a", "b", 1.0, 0.5, 0.001, 5, adjusted=adjusted)

    assert compared(0.049).is_significant
    assert not compared(0.05).is_significant
    assert not Comparison("a", "b", 1.0, 0.5, 0.001, 5).is_significant  # not corrected yet


def test_without_a_difference_few_families_have_a_significant_comparison():
    """The error rate of the family, by 200 draws: at most 5 %, plus 3 standard errors."""
    pairs = [(f"arm{index}", "kd") for index in range(10)]
    families = 0
    for seed in range(200):
        found = compare(drawn(dict.fromkeys(["kd", *(arm for arm, _ in pairs)], 40.0), seed=seed), pairs)
        families += min(holm([each.p_value for each in found])) < 0.05

    assert families <= 200 * (0.05 + 3 * np.sqrt(0.05 * 0.95 / 200))
