"""Usage by day."""

from datetime import timedelta

from sqlalchemy import update

from core.store import jobs, usage_history
from core.store.db import utc_now
from core.store.jobs import NewArtifact
from core.store.tables import Job


def end_job(world, *, days_ago, seconds, devices=None):
    """Create a job that ended this many days ago after stages of ``seconds``, with a file of 40 bytes."""
    lease = world.start_job(spec={"resources": {"devices": devices}} if devices else {})
    file = NewArtifact("model.safetensors", "application/octet-stream", world.file(f"jobs/{lease.job_id}/a1/m"))
    world.write(jobs.succeed, lease, result={}, artifacts=[file])
    ended = world.read(utc_now) - timedelta(days=days_ago)
    stages = [{"name": str(index), "seconds": value} for index, value in enumerate(seconds)]
    values = {"created_at": ended, "finished_at": ended, "stages": stages}
    world.write(lambda session: session.execute(update(Job).where(Job.id == lease.job_id).values(**values)))


def test_days_sum_jobs_device_seconds_and_stored_bytes(world, other_project):
    end_job(world, days_ago=0, seconds=[1.5, None, 2.0])
    end_job(world, days_ago=2, seconds=[10.0], devices=4)
    end_job(world, days_ago=2, seconds=[])
    end_job(world, days_ago=9, seconds=[100.0])  # before the first day
    world.job()
    days = world.read(usage_history.read_days, world.project, 3)

    today = world.read(utc_now).date()
    assert [day.day for day in days] == [today - timedelta(days=age) for age in (2, 1, 0)]
    assert [(day.jobs_created, day.jobs_ended, day.device_seconds) for day in days] == [
        (2, 2, 40.0),
        (0, 0, 0.0),
        (2, 1, 3.5),
    ]
    # The files of all jobs, and the dataset, were added today.
    assert [day.stored_bytes for day in days] == [0, 0, 4 * 10 + 10]
    other = world.read(usage_history.read_days, other_project, 1)[0]
    assert (other.jobs_created, other.jobs_ended, other.device_seconds, other.stored_bytes) == (0, 0, 0.0, 0)
