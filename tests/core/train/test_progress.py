"""Which steps are logged, and how fast it goes."""

import pytest

from core.spec import TrainingSpec, parse_job_spec
from core.train.progress import ProgressLogger, ProgressRange, Track, plan_spans
from core.train.schedule import Schedule

TRACK = Track(name="distill", series="train", span=ProgressRange(0.1, 0.8))


def recorder(reporter, total):
    schedule = Schedule.of(TrainingSpec(epochs=total), steps_per_epoch=1)
    return ProgressLogger(reporter, TRACK, schedule, batch_size=8)


@pytest.mark.parametrize("total", [1, 276, 1000, 1001, 1999])
def test_short_trainings_log_every_step(total, remembering):
    recording = recorder(remembering(), total)

    assert all(recording.wants(step) for step in range(1, total + 1))


def test_long_trainings_log_a_thousand_first_steps_and_about_a_thousand_more(remembering):
    recording = recorder(remembering(), 9_999)

    logged = [step for step in range(1, 10_000) if recording.wants(step)]

    assert logged[:1000] == list(range(1, 1001))
    assert 1_000 <= len([step for step in logged if step > 1000]) <= 2_000
    assert logged[-1] == 9_999


def test_progress_speaks_of_the_whole_job(remembering):
    reporter = remembering()
    recording = recorder(reporter, 100)

    recording.begin(50)
    recording.progress(75, force=True)

    assert reporter.progresses[0].fraction == pytest.approx(0.5)
    assert reporter.progresses[0].images_per_second is None
    last = reporter.latest
    assert last.fraction == pytest.approx(0.7)
    assert last.images_per_second > 0
    assert last.eta_seconds == pytest.approx(0.3 / 0.8 * 100 * 8 / last.images_per_second)


def test_progress_is_not_told_at_every_step(remembering):
    reporter = remembering()
    recording = recorder(reporter, 5_000)
    recording.begin(0)

    for step in range(1, 2_000):
        recording.progress(step)

    assert len(reporter.progresses) < 100


def test_trainings_share_the_progress_by_their_epochs():
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

    spans = plan_spans(spec, "distill", ProgressRange(0.1, 0.5))

    assert {name: (round(one.start, 9), round(one.width, 9)) for name, one in spans.items()} == {
        "teacher-0": (0.1, 0.15),
        "teacher-2": (0.25, 0.15),
        "distill": (0.4, 0.2),
    }
