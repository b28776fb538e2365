"""Learning rate schedule: warm-up and cosine decay."""

import pytest

from core.spec import TrainingSpec
from core.train.schedule import Schedule


def schedule(steps_per_epoch=10, **block):
    return Schedule.from_spec(TrainingSpec(**block), steps_per_epoch=steps_per_epoch)


def test_the_rate_rises_linearly_then_follows_a_cosine():
    plan = schedule(epochs=10, learning_rate=1.0, min_learning_rate=0.1, warmup_epochs=2)

    rates = [plan.rate(step) for step in range(plan.total_steps)]

    assert rates[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert max(rates) == rates[20] == 1.0
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert plan.rate(20 + 79 // 2) == pytest.approx(0.55, abs=0.02)


def test_a_training_of_one_epoch_reaches_its_learning_rate():
    plan = schedule(epochs=1, learning_rate=1.0)

    assert max(plan.rate(step) for step in range(10)) == 1.0


def test_a_minimum_above_the_learning_rate_is_lowered_to_it():
    plan = schedule(epochs=2, learning_rate=1e-6)

    assert max(plan.rate(step) for step in range(20)) == pytest.approx(1e-6)


def test_a_single_step_has_the_full_learning_rate():
    assert schedule(epochs=1, steps_per_epoch=1, learning_rate=0.5).rate(0) == 0.5


def test_only_complete_epochs_are_counted():
    plan = schedule(epochs=3)

    assert [plan.epoch(step) for step in (0, 9, 10, 30)] == [0, 0, 1, 3]
