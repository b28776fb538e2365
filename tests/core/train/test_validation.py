"""When the student is evaluated during its training."""

import pytest

from core.train.validation import ValidationSchedule


class Clock:
    """A clock that a test advances."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def simulate(total_steps, *, relative_cost, step_seconds=1.0, evaluation_seconds=None, start=0):
    """Run a training on a simulated clock; return the steps of its evaluations, and the seconds spent on them."""
    clock = Clock()
    schedule = ValidationSchedule(total_steps, relative_cost=relative_cost, step=start, clock=clock)
    seconds = step_seconds * relative_cost / 3 if evaluation_seconds is None else evaluation_seconds
    points = []
    for step in range(start + 1, total_steps + 1):
        clock.seconds += step_seconds
        if schedule.is_due(step):
            clock.seconds += seconds
            schedule.add(step, seconds)
            points.append(step)
    return points, seconds * len(points)


def test_a_cheap_evaluation_starts_after_a_hundredth_and_repeats_every_twentieth_of_the_steps():
    points, _ = simulate(1_000, relative_cost=3)

    assert points[:3] == [10, 60, 110]
    assert len(points) == 20


@pytest.mark.parametrize("relative_cost", [0.1, 3, 30, 90, 150, 1_000, 10_000])
@pytest.mark.parametrize("total_steps", [2, 20, 300, 5_000])
def test_evaluations_take_at_most_a_twentieth_of_the_training(total_steps, relative_cost):
    _, spent = simulate(total_steps, relative_cost=relative_cost)

    assert spent <= 0.05 * total_steps


def test_the_measured_cost_replaces_the_estimate():
    points, spent = simulate(1_000, relative_cost=3, evaluation_seconds=20.0)

    assert points[0] == 10  # by the estimate of one second
    assert 1 < len(points) <= 3
    assert spent <= 0.05 * 1_000 + 20.0


def test_an_expensive_evaluation_that_cannot_come_early_comes_when_it_is_affordable():
    points, _ = simulate(1_000, relative_cost=90)  # 30 seconds each

    assert points == [601]


def test_no_evaluation_is_due_after_the_last_step():
    points, _ = simulate(40, relative_cost=0.01)

    assert points[-1] < 40


def test_a_resumed_training_has_no_early_point():
    points, _ = simulate(1_000, relative_cost=3, start=500)

    assert points[0] == 550
