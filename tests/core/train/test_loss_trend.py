"""First and recent loss of a training."""

import pytest

from core.train.async_metrics import StepMetrics
from core.train.loss_trend import LossTrend


def trend(values, *, name="label"):
    """Trend of a training with these values of one term; its total loss is 100 higher."""
    result = LossTrend()
    for step, value in enumerate(values):
        result.add(StepMetrics(step, {name: value}, 100 + value, 1.0, 1e-3))
    return result


def test_the_trend_follows_the_label_term():
    assert trend([2.0] * 5).ratio == pytest.approx(1.0)
    assert trend([2.0, *[8.0] * 60]).ratio == pytest.approx(4.0, rel=0.01)
    assert trend([2.0, *[0.5] * 60]).ratio == pytest.approx(0.25, rel=0.02)


def test_without_a_label_term_it_follows_the_loss():
    assert trend([0.0, *[100.0] * 60], name="features").ratio == pytest.approx(2.0, rel=0.01)


def test_one_high_step_is_not_a_trend():
    assert trend([2.0, *[1.0] * 60, 8.0]).ratio < 1


def test_without_a_step_there_is_no_ratio():
    assert LossTrend().ratio is None


def test_saved_values_are_restored():
    saved, restored = trend([2.0, 3.0]), LossTrend()

    restored.load({"name": saved.name, "first": saved.first, "recent": saved.recent})

    assert restored == saved
