"""Metric series: batches, replaced points, downsampling."""

import math

from hypothesis import given
from hypothesis import strategies as st

from core.store import jobs, metrics
from core.store.jobs import LeaseToken
from core.store.metrics import downsample


def read_points(world, job_id, **options):
    return {
        series.name: list(series.points) for series in world.read(metrics.read_series, world.project, job_id, **options)
    }


def test_batch_is_stored(world):
    lease = world.start_job()
    world.write(metrics.insert, lease, [("train/loss", s, 1 / s) for s in range(1, 3001)] + [("eval/top1", 3000, 0.5)])

    points = read_points(world, lease.job_id)

    assert points["train/loss"] == [(s, 1 / s) for s in range(1, 3001)]
    assert points["eval/top1"] == [(3000, 0.5)]
    assert list(read_points(world, lease.job_id, name="eval/top1")) == ["eval/top1"]


def test_empty_batch(world):
    world.write(metrics.insert, world.start_job(), [])


def test_rewritten_step_replaces_the_value(world):
    lease = world.start_job()
    world.write(metrics.insert, lease, [("train/loss", 1, 1.0), ("train/loss", 1, 2.0)])
    world.write(metrics.insert, lease, [("train/loss", 1, 3.0)])

    assert read_points(world, lease.job_id) == {"train/loss": [(1, 3.0)]}


def test_non_finite_value_becomes_null(world):
    lease = world.start_job()
    world.write(metrics.insert, lease, [("train/loss", 1, math.nan), ("train/loss", 2, math.inf)])

    assert read_points(world, lease.job_id) == {"train/loss": [(1, None), (2, None)]}


def test_resume_deletes_points_beyond_its_checkpoint(world):
    lease = world.start_job()
    names = ("train/loss", "eval/top1", "teacher/0/loss", "teacher/10/loss")
    world.write(metrics.insert, lease, [(name, step, 0.0) for name in names for step in (0, 5, 6)])
    world.write(jobs.release, lease)
    again = LeaseToken.from_job(world.claim())

    world.write(metrics.delete_after, again, 5)
    steps = {name: [step for step, _ in series] for name, series in read_points(world, lease.job_id).items()}
    assert steps == {
        "eval/top1": [0, 5],
        "teacher/0/loss": [0, 5, 6],
        "teacher/10/loss": [0, 5, 6],
        "train/loss": [0, 5],
    }

    world.write(metrics.delete_after, again, -1, track="teacher-0")
    assert "teacher/0/loss" not in read_points(world, lease.job_id)
    assert "teacher/10/loss" in read_points(world, lease.job_id)


def test_series_of_another_project_are_hidden(world, other_project):
    lease = world.start_job()
    world.write(metrics.insert, lease, [("train/loss", 1, 1.0)])

    assert world.read(metrics.read_series, other_project, lease.job_id) == []


def test_downsampled_series_has_spikes(world):
    lease = world.start_job()
    values = [("train/loss", s, 100.0 if s == 777 else -100.0 if s == 333 else 0.0) for s in range(1000)]
    world.write(metrics.insert, lease, values)

    downsampled = read_points(world, lease.job_id, max_points=50)["train/loss"]

    assert len(downsampled) <= 50
    assert {(777, 100.0), (333, -100.0)} <= set(downsampled)


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), max_size=200),
    st.integers(1, 60),
)
def test_downsampling_keeps_order_ends_and_limit(values, limit):
    series = list(enumerate(values))
    downsampled = list(downsample(series, limit))

    assert len(downsampled) <= limit
    assert downsampled == sorted(set(downsampled) & set(series), key=lambda point: point[0])
    if len(series) <= limit:
        assert downsampled == series
    elif limit >= 2:
        assert (downsampled[0], downsampled[-1]) == (series[0], series[-1])
