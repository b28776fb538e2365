"""Rollups of metric series: they match the points after every kind of write."""

import random
from dataclasses import astuple

import pytest

from core.store import jobs, metric_rollups, metrics, schema
from core.store.db import Database, make_engine, migrate
from core.store.jobs import LeaseToken
from core.store.metric_rollups import POINTS_PER_ROLLUP, MetricRollup, sort_value
from core.store.metrics import MAX_POINTS_READ

NAME = "train/loss"


def expected_rollups(points):
    rollups = []
    for start in range(0, len(points), POINTS_PER_ROLLUP):
        part = points[start : start + POINTS_PER_ROLLUP]
        low, high = min(part, key=sort_value), max(part, key=sort_value)
        rollups.append((part[0][0], part[-1][0], len(part), *low, *high))
    return rollups


def stored_rollups(world, job_id, name=NAME):
    rollups = world.read(metric_rollups.read_rollups, world.project, job_id, None).get(name, [])
    return [astuple(rollup) for rollup in rollups]


def read_points(world, job_id, **options):
    series = {
        each.name: list(each.points) for each in world.read(metrics.read_series, world.project, job_id, **options)
    }
    return series.get(NAME, [])


def log(world, lease, values, name=NAME):
    world.write(metrics.insert, lease, [(name, step, value) for step, value in values])


@pytest.mark.parametrize("batch", [1, 100, 256, 1000])
def test_rollups_do_not_depend_on_batch_size(world, batch):
    lease, draw = world.start_job(), random.Random(0)
    values = [(3 * k, draw.choice([draw.random(), 0.5, float("nan")])) for k in range(700 if batch > 1 else 20)]
    for start in range(0, len(values), batch):
        log(world, lease, values[start : start + batch])

    points = read_points(world, lease.job_id)
    assert len(points) == len(values)
    assert stored_rollups(world, lease.job_id) == expected_rollups(points)


def test_series_of_one_batch_have_separate_rollups(world):
    lease = world.start_job()
    world.write(metrics.insert, lease, [("a", 1, 1.0), ("b", 1, 2.0), ("b", 2, 3.0)])

    assert stored_rollups(world, lease.job_id, "a") == [(1, 1, 1, 1, 1.0, 1, 1.0)]
    assert stored_rollups(world, lease.job_id, "b") == [(1, 2, 2, 1, 2.0, 2, 3.0)]


def test_rewritten_step_updates_its_rollup(world):
    lease = world.start_job()
    log(world, lease, [(step, 100.0 if step == 300 else 0.0) for step in range(1000)])
    log(world, lease, [(300, 1.0), (999, 7.0), (1000, 8.0)])

    assert stored_rollups(world, lease.job_id) == expected_rollups(read_points(world, lease.job_id))


@pytest.mark.parametrize("step", [-1, 0, 255, 256, 400, 5000])
def test_delete_after_updates_rollups(world, step):
    lease = world.start_job()
    log(world, lease, [(k, float(k % 77)) for k in range(1000)])
    log(world, lease, [(k, 1.0) for k in range(1000)], name="teacher/0/loss")
    world.write(jobs.release, lease)
    again = LeaseToken.from_job(world.claim())

    world.write(metrics.delete_after, again, step)

    assert stored_rollups(world, lease.job_id) == expected_rollups(read_points(world, lease.job_id))
    assert len(stored_rollups(world, lease.job_id, "teacher/0/loss")) == 4
    log(world, again, [(k, float(k % 78)) for k in range(step + 1, 1000)])
    assert stored_rollups(world, lease.job_id) == expected_rollups(read_points(world, lease.job_id))


def test_downsampled_long_series_has_ends_and_spikes(world):
    lease, count = world.start_job(), 3 * MAX_POINTS_READ
    spikes = {777: 50.0, 5_000: -50.0, 9_001: None}
    log(world, lease, [(k, float("inf") if k == 9_001 else spikes.get(k, (k % 100) / 100)) for k in range(1, count)])

    downsampled = read_points(world, lease.job_id, max_points=60)

    assert len(downsampled) <= 60
    assert downsampled == sorted(downsampled, key=lambda point: point[0])
    assert (downsampled[0][0], downsampled[-1][0]) == (1, count - 1)
    assert set(spikes.items()) <= set(downsampled)


def test_short_series_is_read_in_full_next_to_a_long_one(world):
    lease = world.start_job()
    log(world, lease, [(k, 0.0) for k in range(MAX_POINTS_READ + 1)])
    log(world, lease, [(k, 0.0) for k in range(90)], name="eval/top1")

    lengths = {
        series.name: len(series.points)
        for series in world.read(metrics.read_series, world.project, lease.job_id, max_points=99)
    }
    assert lengths["eval/top1"] == 90
    assert lengths["train/loss"] <= 99


def test_non_finite_value_is_the_maximum():
    rollup = MetricRollup.from_point((1, 5.0)).with_point((2, None)).with_point((3, None)).with_point((4, 1.0))

    assert rollup.extremes() == ((4, 1.0), (2, None))


def test_migration_computes_rollups_of_existing_points(empty_url):
    migrate(empty_url, revision="0001")
    engine, draw = make_engine(empty_url), random.Random(1)
    values = [(7 * k, draw.choice([float(draw.randrange(40)), None])) for k in range(600)]
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO projects (id, name, created_at) VALUES ('prj_1', 'p', '2026-01-01')")
        connection.exec_driver_sql(
            "INSERT INTO jobs (id, project_id, status, stages, progress, spec, resolved, dataset_id, priority, "
            "accelerator, attempt, losses, checkpoint_step, last_seq, cancel_requested, pause_requested, "
            "stop_requested, metadata, created_at) VALUES ('job_1', 'prj_1', 'succeeded', '[]', '{}', '{}', true, "
            "'ds', 0, 'cpu', 1, 0, 0, 0, false, false, false, '{}', '2026-01-01')"
        )
        rows = [
            {"job_id": "job_1", "project_id": "prj_1", "name": NAME, "step": step, "value": value}
            for step, value in values
        ]
        connection.execute(metrics.Metric.__table__.insert(), rows)
    engine.dispose()

    migrate(empty_url)

    database = Database(make_engine(empty_url))
    with database.read() as session:
        rollups = metric_rollups.read_rollups(session, "prj_1", "job_1", None)[NAME]
    database.dispose()
    assert [astuple(rollup) for rollup in rollups] == expected_rollups(values)
    schema.downgrade(empty_url, revision="0001")
