"""Logged steps, progress and speed of a training."""

import pytest

from core.spec import TrainingSpec, parse_job_spec
from core.train import progress
from core.train.progress import ProgressLogger, Track, plan_ranges
from core.train.schedule import Schedule
from core.train.time_plan import ProgressRange, TimePlan

TRACK = Track(name="distill", metric_prefix="train", progress_range=ProgressRange(0.1, 0.8))


def make_logger(reporter, total):
    schedule = Schedule.from_spec(TrainingSpec(epochs=total), steps_per_epoch=1)
    return ProgressLogger(reporter, TRACK, schedule, batch_size=8)


@pytest.mark.parametrize("total", [1, 276, 1000, 1001, 1999])
def test_short_trainings_log_every_step(total, make_reporter):
    logger = make_logger(make_reporter(), total)

    assert all(logger.should_log(step) for step in range(1, total + 1))


def test_long_trainings_log_the_first_thousand_steps_and_about_a_thousand_more(make_reporter):
    logger = make_logger(make_reporter(), 9_999)

    logged = [step for step in range(1, 10_000) if logger.should_log(step)]

    assert logged[:1000] == list(range(1, 1001))
    assert 1_000 <= len([step for step in logged if step > 1000]) <= 2_000
    assert logged[-1] == 9_999


def test_a_training_after_the_students_reports_the_students_steps(make_reporter):
    reporter = make_reporter()
    schedule = Schedule.from_spec(TrainingSpec(epochs=10), steps_per_epoch=1)
    track = Track(
        name="baseline", metric_prefix="baseline", progress_range=ProgressRange(0.5, 0.4),
        student_steps=40, completed_steps=40, completed_epochs=4,
    )  # fmt: skip
    logger = ProgressLogger(reporter, track, schedule, batch_size=8)

    logger.begin(5)

    last = reporter.progress_reports[-1]
    assert (last.step, last.total_steps, last.epoch) == (40, 40, 4)
    assert (last.stage_step, last.stage_total_steps, last.fraction) == (5, 10, pytest.approx(0.7))


def test_progress_is_that_of_the_complete_job(make_reporter):
    reporter = make_reporter()
    logger = make_logger(reporter, 100)

    logger.begin(50)
    logger.progress(75, force=True)

    assert reporter.progress_reports[0].fraction == pytest.approx(0.5)
    assert reporter.progress_reports[0].images_per_second is None
    last = reporter.latest
    assert last.fraction == pytest.approx(0.7)
    assert last.images_per_second > 0


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one that the test advances: `clock[0] += seconds`."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_remaining_time_has_the_expected_seconds_of_each_later_part(make_reporter, clock):
    plan, reporter = TimePlan(), make_reporter()
    track = Track("distill", "train", ProgressRange(0.1, 0.4), time_plan=plan)
    plan.expect(ProgressRange(0.0, 0.1), 99.0)  # a teacher, trained before
    plan.expect(ProgressRange(0.5, 0.3), 0.0)  # a reused baseline
    plan.expect(ProgressRange(0.8, 0.1), 7.0)
    plan.add(ProgressRange(0.9, 0.1))  # unknown: as long as a quarter of this training
    schedule = Schedule.from_spec(TrainingSpec(epochs=10), steps_per_epoch=1)
    logger = ProgressLogger(reporter, track, schedule, batch_size=8)

    logger.begin(0)
    assert reporter.latest.eta_seconds is None
    plan.expect(ProgressRange(0.1, 0.4), 20.0)
    logger.begin(0)
    assert reporter.latest.eta_seconds == pytest.approx(20 + 7 + 5)
    clock[0] += 60  # initialization
    logger.progress(1)
    assert reporter.latest.images_per_second is None
    assert reporter.latest.eta_seconds == pytest.approx(18 + 7 + 5)
    for step in range(2, 11):
        clock[0] += 4
        logger.progress(step)
        assert reporter.latest.eta_seconds == pytest.approx(4 * (10 - step) + 7 + 10)
    assert reporter.latest.images_per_second == pytest.approx(2)


def test_the_speed_of_the_student_limits_the_expected_seconds_of_its_baseline():
    student, baseline, plan = ProgressRange(0.2, 0.4), ProgressRange(0.6, 0.4), TimePlan()
    plan.expect(baseline, 30.0, slower=student)

    assert plan.seconds_after(student, seconds_per_progress=50.0) == pytest.approx(20)
    assert plan.seconds_after(student, seconds_per_progress=500.0) == pytest.approx(30)
    assert plan.seconds_after(ProgressRange(0.0, 0.2), seconds_per_progress=50.0) == pytest.approx(30)  # a teacher


def test_a_training_without_steps_precedes_the_part_at_its_place():
    empty, later, plan = ProgressRange(0.2, 0.0), ProgressRange(0.2, 0.8), TimePlan()
    plan.expect(empty, 1.0)
    plan.expect(later, 9.0)

    assert plan.seconds_after(empty, seconds_per_progress=0.0) == 9
    assert plan.seconds_after(later, seconds_per_progress=1.0) == 0


def test_a_training_of_one_step_has_a_speed(make_reporter, clock):
    reporter = make_reporter()
    logger = make_logger(reporter, 1)

    logger.begin(0)
    clock[0] += 2
    logger.progress(1)

    assert reporter.latest.images_per_second == pytest.approx(4)


def test_progress_is_not_reported_at_every_step(make_reporter):
    reporter = make_reporter()
    logger = make_logger(reporter, 5_000)
    logger.begin(0)

    for step in range(1, 2_000):
        logger.progress(step)

    assert len(reporter.progress_reports) < 100


def test_trainings_divide_the_progress_by_their_epochs():
    teacher = {"architecture": "resnet18", "weights": "train", "training": {"epochs": 3}}
    spec = parse_job_spec(
        {
            "dataset": "ds_a",
            "teachers": [teacher, {"architecture": "resnet18", "weights": "random"}, teacher],
            "student": {"architecture": "resnet10t"},
            "method": {"name": "kd"},
            "training": {"epochs": 4},
        }
    )

    ranges = plan_ranges(spec, ProgressRange(0.1, 0.5))

    assert {track: (round(part.start, 9), round(part.width, 9)) for track, part in ranges.items()} == {
        "teacher-0": (0.1, 0.15),
        "teacher-2": (0.25, 0.15),
        "distill": (0.4, 0.2),
    }
