"""The benchmark of step costs compares a method and ``scratch`` step by step."""

import pytest

from benchmarks.step_costs import MIN_STEPS, WARMUP_STEPS, _document, _scratch, alternate, summarize
from core.spec import METHODS, parse_job_spec


class FakeClock:
    """A clock that only the work moves."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def work(self, name, seconds):
        def run(step):
            self.calls.append((name, step))
            self.now += seconds

        return run


def test_steps_alternate_after_the_warmup_and_each_starts_half_of_the_time():
    clock = FakeClock()
    times = alternate(clock.work("kd", 3.0), clock.work("scratch", 2.0), seconds=10.0, max_steps=100, clock=clock)

    assert times == ([3.0] * MIN_STEPS, [2.0] * MIN_STEPS)
    assert clock.calls[2 * WARMUP_STEPS :][:4] == [("kd", 5), ("scratch", 5), ("scratch", 6), ("kd", 6)]


def test_more_steps_are_measured_until_the_time_is_used():
    clock = FakeClock()
    times = alternate(clock.work("kd", 0.5), clock.work("scratch", 0.5), seconds=40.0, max_steps=100, clock=clock)

    assert len(times[0]) == len(times[1]) == 41


def test_the_cost_is_the_ratio_of_medians():
    cost = summarize("kd", [2.0, 2.0, 2.0, 9.0], [1.0, 1.0, 8.0, 1.0])

    assert (cost.cost, cost.steps) == (2.0, 4)
    assert cost.lower <= cost.cost <= cost.upper


@pytest.mark.parametrize("name", METHODS)
def test_method_and_scratch_have_the_same_student_and_no_teacher_is_trained(name):
    job, scratch = parse_job_spec(_document(name)), parse_job_spec(_scratch(name))

    assert scratch.method.name == "scratch"
    assert scratch.student.arguments == job.student.arguments
    assert scratch.student.architecture == job.student.architecture
    assert scratch.training == job.training
    assert all(teacher.weights == "random" for teacher in job.teachers)
