"""Counts of jobs: equal to the rows after every change, read from a number of rows that does not grow with the jobs."""

from collections import Counter

import pytest
from sqlalchemy import func, insert, select

from core.ids import new_id
from core.store import job_counts, jobs
from core.store.db import utc_now
from core.store.job_counts import MAX_UNMERGED_ROWS, Group
from core.store.tables import Job, JobCount
from tests.core.store.test_plans import record_statements


def counted(world):
    """Return the counts by group, without zeros."""
    columns = (JobCount.project_id, JobCount.status, JobCount.accelerator)
    with world.db.read() as session:
        rows = session.execute(select(*columns, func.sum(JobCount.num_jobs)).group_by(*columns))
        return {Group(*row[:3]): int(row[3]) for row in rows if row[3]}


def actual(world):
    with world.db.read() as session:
        return dict(Counter(map(Group.of_job, session.execute(select(Job.project_id, Job.status, Job.accelerator)))))


def num_rows(world):
    with world.db.read() as session:
        return session.scalars(select(func.count()).select_from(JobCount)).one()


def test_counts_follow_every_action(world, other_project):
    dataset = world.ready_dataset(other_project)
    world.job(project=other_project, dataset=dataset, accelerator="cuda")
    first, second = world.job(), world.job(accelerator="cpu")
    assert counted(world) == actual(world)
    project, error = world.project, {"code": "x", "message": "x"}
    steps = [
        lambda: world.write(jobs.pause, project, first),
        lambda: world.write(jobs.resume, project, first),
        lambda: world.write(jobs.cancel, project, first),
        lambda: world.write(jobs.retry, project, first),
        world.claim,
        lambda: world.write(jobs.fail, jobs.LeaseToken(first, 1), error),
        world.claim,
        lambda: world.write(jobs.release, jobs.LeaseToken(second, 1)),
        world.claim,
        world.expire_leases,
        world.claim,
        lambda: world.write(jobs.succeed, jobs.LeaseToken(second, 3), result={}, artifacts=[]),
        lambda: world.write(jobs.delete, project, second),
    ]
    for number, step in enumerate(steps):
        step()
        assert counted(world) == actual(world), f"step {number}"

    assert world.read(job_counts.count_queued) == {"auto": 0, "cpu": 0, "cuda": 1}
    assert world.read(job_counts.count_by_status)["failed"] == 1


def test_a_rejected_change_counts_nothing(world):
    lease = world.start_job()
    before = world.rows()["job_counts"]

    assert world.write(jobs.claim, worker_id="w", accelerator="cpu", lease_seconds=60) is None
    with pytest.raises(jobs.LeaseLost):
        world.write(jobs.succeed, jobs.LeaseToken(lease.job_id, 7), result={}, artifacts=[])
    assert world.rows()["job_counts"] == before


def test_rows_are_merged(world):
    job_id = world.job()
    while num_rows(world) <= MAX_UNMERGED_ROWS + 2:  # of the groups queued and paused
        world.write(jobs.pause, world.project, job_id)
        world.write(jobs.resume, world.project, job_id)
    before = counted(world)

    assert world.write(job_counts.merge) > MAX_UNMERGED_ROWS
    assert num_rows(world) == 1
    assert counted(world) == before == actual(world)
    assert world.write(job_counts.merge) == 0


def test_jobs_of_an_older_version_are_counted_by_a_recount(world):
    job_id = world.job()
    values = {"project_id": world.project, "progress": {}, "spec": {}, "resolved": True, "dataset_id": "ds_x"}
    values |= {"status": "failed", "accelerator": "cpu", "priority": 0}
    with world.db.write() as session:
        session.execute(insert(Job).values(id=new_id("job"), created_at=utc_now(session), **values))

    assert world.write(job_counts.recount) == {Group(world.project, "failed", "cpu"): 1}
    assert world.write(job_counts.recount) == {}
    assert counted(world) == actual(world)
    assert world.get(job_id).status == "queued"


def test_counts_read_no_job(world):
    world.job()
    with record_statements(world.db) as statements:
        world.read(job_counts.count_by_status)
        world.read(job_counts.count_queued)

    assert len(statements) == 2
    assert all("job_counts" in statement and "FROM jobs" not in statement for statement, _ in statements)
