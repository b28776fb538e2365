"""Series: batches in, thinned out."""

import math

from hypothesis import given
from hypothesis import strategies as st

from core.store import jobs, metrics
from core.store.jobs import LeaseToken
from core.store.metrics import thin


def points(world, job_id, **options):
    return {one.name: list(one.points) for one in world.ask(metrics.series, world.project, job_id, **options)}


def test_a_batch_is_kept(world):
    attempt = world.attempt()
    world.do(metrics.insert, attempt, [("train/loss", s, 1 / s) for s in range(1, 3001)] + [("eval/top1", 3000, 0.5)])

    found = points(world, attempt.job_id)

    assert found["train/loss"] == [(s, 1 / s) for s in range(1, 3001)]
    assert found["eval/top1"] == [(3000, 0.5)]
    assert list(points(world, attempt.job_id, name="eval/top1")) == ["eval/top1"]


def test_an_empty_batch_is_fine(world):
    world.do(metrics.insert, world.attempt(), [])


def test_a_step_logged_again_is_replaced(world):
    attempt = world.attempt()
    world.do(metrics.insert, attempt, [("train/loss", 1, 1.0), ("train/loss", 1, 2.0)])
    world.do(metrics.insert, attempt, [("train/loss", 1, 3.0)])

    assert points(world, attempt.job_id) == {"train/loss": [(1, 3.0)]}


def test_what_is_not_finite_becomes_null(world):
    attempt = world.attempt()
    world.do(metrics.insert, attempt, [("train/loss", 1, math.nan), ("train/loss", 2, math.inf)])

    assert points(world, attempt.job_id) == {"train/loss": [(1, None), (2, None)]}


def test_a_resume_forgets_what_lies_beyond_its_checkpoint(world):
    attempt = world.attempt()
    names = ("train/loss", "eval/top1", "teacher/0/loss", "teacher/10/loss")
    world.do(metrics.insert, attempt, [(name, step, 0.0) for name in names for step in (0, 5, 6)])
    world.do(jobs.release, attempt)
    again = LeaseToken.of(world.claim())

    world.do(metrics.drop_after, again, 5)
    steps = {name: [step for step, _ in series] for name, series in points(world, attempt.job_id).items()}
    assert steps == {
        "eval/top1": [0, 5],
        "teacher/0/loss": [0, 5, 6],
        "teacher/10/loss": [0, 5, 6],
        "train/loss": [0, 5],
    }

    world.do(metrics.drop_after, again, -1, track="teacher-0")
    assert "teacher/0/loss" not in points(world, attempt.job_id)
    assert "teacher/10/loss" in points(world, attempt.job_id)


def test_somebody_elses_series_are_not_there(world, stranger):
    attempt = world.attempt()
    world.do(metrics.insert, attempt, [("train/loss", 1, 1.0)])

    assert world.ask(metrics.series, stranger, attempt.job_id) == []


def test_a_thinned_series_keeps_its_spikes(world):
    attempt = world.attempt()
    values = [("train/loss", s, 100.0 if s == 777 else -100.0 if s == 333 else 0.0) for s in range(1000)]
    world.do(metrics.insert, attempt, values)

    thinned = points(world, attempt.job_id, max_points=50)["train/loss"]

    assert len(thinned) <= 50
    assert {(777, 100.0), (333, -100.0)} <= set(thinned)


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), max_size=200),
    st.integers(1, 60),
)
def test_thinning_keeps_order_ends_and_the_limit(values, limit):
    series = list(enumerate(values))
    thinned = list(thin(series, limit))

    assert len(thinned) <= limit
    assert thinned == sorted(set(thinned) & set(series), key=lambda point: point[0])
    if len(series) <= limit:
        assert thinned == series
    elif limit >= 2:
        assert (thinned[0], thinned[-1]) == (series[0], series[-1])
