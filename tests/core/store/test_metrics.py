"""Series: batches in, thinned out."""

import math

from hypothesis import given
from hypothesis import strategies as st

from core.store import jobs, metrics
from core.store.jobs import LeaseToken
from core.store.metrics import downsample


def points(world, job_id, **options):
    return {one.name: list(one.points) for one in world.read(metrics.read_series, world.project, job_id, **options)}


def test_a_batch_is_kept(world):
    lease = world.start_job()
    world.write(metrics.insert, lease, [("train/loss", s, 1 / s) for s in range(1, 3001)] + [("eval/top1", 3000, 0.5)])

    found = points(world, lease.job_id)

    assert found["train/loss"] == [(s, 1 / s) for s in range(1, 3001)]
    assert found["eval/top1"] == [(3000, 0.5)]
    assert list(points(world, lease.job_id, name="eval/top1")) == ["eval/top1"]


def test_an_empty_batch_is_fine(world):
    world.write(metrics.insert, world.start_job(), [])


def test_a_step_logged_again_is_replaced(world):
    lease = world.start_job()
    world.write(metrics.insert, lease, [("train/loss", 1, 1.0), ("train/loss", 1, 2.0)])
    world.write(metrics.insert, lease, [("train/loss", 1, 3.0)])

    assert points(world, lease.job_id) == {"train/loss": [(1, 3.0)]}


def test_what_is_not_finite_becomes_null(world):
    lease = world.start_job()
    world.write(metrics.insert, lease, [("train/loss", 1, math.nan), ("train/loss", 2, math.inf)])

    assert points(world, lease.job_id) == {"train/loss": [(1, None), (2, None)]}


def test_a_resume_forgets_what_lies_beyond_its_checkpoint(world):
    lease = world.start_job()
    names = ("train/loss", "eval/top1", "teacher/0/loss", "teacher/10/loss")
    world.write(metrics.insert, lease, [(name, step, 0.0) for name in names for step in (0, 5, 6)])
    world.write(jobs.release, lease)
    again = LeaseToken.from_job(world.claim())

    world.write(metrics.delete_after, again, 5)
    steps = {name: [step for step, _ in series] for name, series in points(world, lease.job_id).items()}
    assert steps == {
        "eval/top1": [0, 5],
        "teacher/0/loss": [0, 5, 6],
        "teacher/10/loss": [0, 5, 6],
        "train/loss": [0, 5],
    }

    world.write(metrics.delete_after, again, -1, track="teacher-0")
    assert "teacher/0/loss" not in points(world, lease.job_id)
    assert "teacher/10/loss" in points(world, lease.job_id)


def test_somebody_elses_series_are_not_there(world, other_project):
    lease = world.start_job()
    world.write(metrics.insert, lease, [("train/loss", 1, 1.0)])

    assert world.read(metrics.read_series, other_project, lease.job_id) == []


def test_a_thinned_series_keeps_its_spikes(world):
    lease = world.start_job()
    values = [("train/loss", s, 100.0 if s == 777 else -100.0 if s == 333 else 0.0) for s in range(1000)]
    world.write(metrics.insert, lease, values)

    thinned = points(world, lease.job_id, max_points=50)["train/loss"]

    assert len(thinned) <= 50
    assert {(777, 100.0), (333, -100.0)} <= set(thinned)


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), max_size=200),
    st.integers(1, 60),
)
def test_thinning_keeps_order_ends_and_the_limit(values, limit):
    series = list(enumerate(values))
    thinned = list(downsample(series, limit))

    assert len(thinned) <= limit
    assert thinned == sorted(set(thinned) & set(series), key=lambda point: point[0])
    if len(series) <= limit:
        assert thinned == series
    elif limit >= 2:
        assert (thinned[0], thinned[-1]) == (series[0], series[-1])
