import math

import pytest
import torch

from core.evaluate.bootstrap import paired_difference


def correct(*runs):
    """Return bools: runs of (value, length)."""
    return torch.cat([torch.full((length,), value, dtype=torch.bool) for value, length in runs])


def test_the_interval_is_that_of_the_difference_and_not_of_two_independent_accuracies():
    first = correct((True, 850), (True, 50), (False, 20), (False, 80))
    second = correct((True, 850), (False, 50), (True, 20), (False, 80))
    result = paired_difference(first, second, seed=0)

    assert (result.only_first, result.only_second) == (50, 20)
    assert result.difference == pytest.approx(0.03)
    # Normal approximation: the variance of differences of 1, -1 and 0.
    deviation = math.sqrt((0.07 - 0.03**2) / 1000)
    assert result.low == pytest.approx(0.03 - 1.96 * deviation, abs=0.0015)
    assert result.high == pytest.approx(0.03 + 1.96 * deviation, abs=0.0015)


def test_the_interval_is_the_same_for_the_same_seed_and_mirrored_for_swapped_networks():
    first = correct((True, 60), (False, 40))
    second = correct((True, 40), (False, 30), (True, 30))

    assert paired_difference(first, second, seed=3) == paired_difference(first, second, seed=3)
    swapped = paired_difference(second, first, seed=3)
    assert swapped.difference == -paired_difference(first, second, seed=3).difference


def test_networks_that_are_right_on_the_same_images_do_not_differ():
    same = correct((True, 7), (False, 3))
    result = paired_difference(same, same, seed=0)

    assert (result.difference, result.low, result.high) == (0, 0, 0)
