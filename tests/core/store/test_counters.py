"""Stored metrics: each change counts once, in its transaction; reads do not grow with the number of jobs."""

import pytest
from sqlalchemy import func, select

from core.store import counters, events, job_metrics, jobs
from core.store.counter_tables import StoredCounter
from core.store.counters import Observation
from core.store.job_metrics import CACHE_EVENT
from tests.core.store.test_plans import record_statements

ERROR = {"code": "out_of_memory", "message": "m", "fault": "capacity"}


def totals(world, metric):
    """Return the sums of a metric by labels, without zeros."""
    return {labels: total.sum for labels, total in world.read(counters.read)[metric.name].items() if total.sum}


def counts(world, metric):
    return {labels: total.count for labels, total in world.read(counters.read)[metric.name].items()}


def num_rows(world):
    return world.read(lambda session: session.scalars(select(func.count()).select_from(StoredCounter)).one())


def test_a_job_is_counted_by_stage_and_end(world):
    lease = world.start_job()
    for stage in ("prepare", "distill"):
        world.write(jobs.start_stage, lease, stage)
        world.write(jobs.finish_stage, lease, stage)
    world.write(jobs.start_stage, lease, "export")
    world.write(jobs.fail, lease, ERROR)

    assert totals(world, counters.JOBS_CREATED) == {("scratch",): 1}
    assert totals(world, counters.JOB_ATTEMPTS) == {("cpu",): 1}
    assert counts(world, counters.JOB_QUEUE_SECONDS) == {("cpu",): 1}
    assert totals(world, counters.JOB_FAILURES) == {("out_of_memory", "capacity"): 1}
    assert counts(world, counters.JOB_SECONDS) == {("scratch", "failed"): 1}
    stages = counts(world, counters.STAGE_SECONDS)
    assert set(stages) <= {(s, "scratch", "finished") for s in ("prepare", "distill")} | {
        ("export", "scratch", "failed")
    }
    job = world.get(lease.job_id)
    seconds = sum(stage["seconds"] for stage in job.stages)
    assert sum(total.sum for total in world.read(counters.read)[counters.STAGE_SECONDS.name].values()) == pytest.approx(
        seconds, abs=0.01
    )


def test_a_change_that_is_rolled_back_or_repeated_counts_once(world):
    lease = world.start_job()
    with world.db.write() as session:
        jobs.fail(session, lease, ERROR)
        session.rollback()
    assert totals(world, counters.JOB_FAILURES) == {}

    world.write(jobs.fail, lease, ERROR)
    with pytest.raises(jobs.LeaseLost):
        world.write(jobs.fail, lease, ERROR)
    assert totals(world, counters.JOB_FAILURES) == {("out_of_memory", "capacity"): 1}


def test_a_lost_attempt_counts_no_time_of_its_stage(world):
    lease = world.start_job()
    world.write(jobs.start_stage, lease, "distill")
    assert [job.status for job in world.expire_leases()] == ["queued"]

    assert totals(world, counters.LEASE_LOSSES) == {("job", "worker_lost"): 1}
    assert counts(world, counters.STAGE_SECONDS) == {}


@pytest.mark.parametrize(
    ("status", "losses", "end"),
    [
        ("running", 0, "finished"),
        ("queued", 0, "released"),
        ("queued", 1, "lost"),
        ("paused", 0, "paused"),
        ("succeeded", 0, "finished"),
    ],
)
def test_the_end_of_a_stage(world, status, losses, end):
    job = world.get(world.job())
    job.status, job.worker_losses = status, losses
    job.stages = [{"name": "distill", "seconds": 5.5}]
    old = type(job)(status="running", worker_losses=0, stages=[{"name": "distill", "seconds": 2.0}])

    stage = next(each for each in job_metrics.observe_change(old, job) if each.metric is counters.STAGE_SECONDS)
    assert stage == Observation(counters.STAGE_SECONDS, ("distill", "scratch", end), 3.5)


def test_the_teacher_cache_is_counted_with_its_event(world):
    lease = world.start_job()
    data = {"hits": 3, "misses": 1, "bytes": 4096, "seconds": 1.5, "saved_seconds": 0.25}
    for _ in range(2):
        world.write(events.append, lease, CACHE_EVENT, "m", data=data)

    assert totals(world, counters.CACHE_HITS) == {(): 6}
    assert totals(world, counters.CACHE_BYTES) == {(): 8192}
    assert totals(world, counters.CACHE_COMPUTED_SECONDS) == {(): 3.0}
    assert totals(world, counters.CACHE_SAVED_SECONDS) == {(): 0.5}


def test_a_histogram_is_cumulative(world):
    for seconds in (10, 10.5, 1e7):
        world.write(counters.record, [Observation(counters.JOB_SECONDS, ("kd", "failed"), seconds)])
    total = world.read(counters.read)[counters.JOB_SECONDS.name]["kd", "failed"]

    assert dict(total.buckets) | {"10": 1, "60": 2, "300": 2, "259200": 2, "+Inf": 3} == dict(total.buckets)
    assert (total.count, total.sum) == (3, 10_000_020.5)


def test_merged_rows_have_the_same_totals(world, monkeypatch):
    monkeypatch.setattr(counters, "MAX_UNMERGED_ROWS", 5)
    world.write(counters.merge)
    for _ in range(2):  # the second merge adds to the rows of the first
        for seconds in (0.1, 0.2, 700.0):
            world.write(counters.record, [Observation(counters.JOB_SECONDS, ("kd", "failed"), seconds)])
        before = world.read(counters.read)
        assert world.write(counters.merge) == 6
        assert world.read(counters.read) == before
    assert world.write(counters.merge) == 0
    assert num_rows(world) == 3  # two buckets and the sum


def test_a_read_takes_one_statement_on_its_own_table(world):
    world.write(jobs.fail, world.start_job(), ERROR)
    with record_statements(world.db) as statements:
        world.read(counters.read)

    assert len(statements) == 1
    assert "counters" in statements[0][0]
    assert "jobs" not in statements[0][0]
