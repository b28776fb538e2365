"""Sweeps in the store: their end is recorded once, and jobs outlive them."""

import threading

import pytest

from core.errors import NotFound
from core.store import jobs, sweeps, webhooks
from core.store.jobs import LeaseToken


@pytest.fixture
def make_sweep(world):
    """Create a sweep with queued jobs; return its id and theirs."""

    def make(num_jobs):
        sweep = world.write(
            sweeps.create, world.project, name="s", spec={}, grid={}, points=[], fields=["f"], num_jobs=num_jobs
        )
        points = [{"number": number, "values": {"f": number}} for number in range(1, num_jobs + 1)]
        return sweep.id, [world.job(sweep_id=sweep.id, sweep_point=point) for point in points]

    return make


@pytest.fixture
def ends(world):
    """Return the deliveries of `sweep.finished` so far."""
    options = {"url": "https://x.example", "events": ["sweep.finished"], "secret_key": "k" * 32}
    webhook = world.write(webhooks.create, world.project, **options).webhook
    return lambda: world.read(webhooks.list_deliveries, world.project, webhook.id, limit=100).items


def finished_at(world, sweep_id):
    return world.read(sweeps.get, world.project, sweep_id).finished_at


def test_the_end_of_the_last_job_ends_the_sweep_once(world, make_sweep, ends):
    sweep_id, (first, second) = make_sweep(2)
    world.write(jobs.cancel, world.project, first)
    assert (finished_at(world, sweep_id), ends()) == (None, [])

    lease = LeaseToken.from_job(world.claim())
    world.write(jobs.fail, lease, {"code": "out_of_memory", "message": "Too large."})

    assert finished_at(world, sweep_id) is not None
    (delivery,) = ends()
    assert (delivery.object_id, delivery.payload["data"]["sweep"]["counts"]["failed"]) == (sweep_id, 1)

    world.write(jobs.retry, world.project, second)
    assert finished_at(world, sweep_id) is None
    world.write(jobs.cancel, world.project, second)
    assert len(ends()) == 2


def test_two_jobs_that_end_at_the_same_time_end_the_sweep_once(world, make_sweep, ends):
    sweep_id, job_ids = make_sweep(2)
    together = threading.Barrier(2)

    def end(job_id):
        together.wait()
        world.write(jobs.cancel, world.project, job_id)

    threads = [threading.Thread(target=end, args=(job_id,)) for job_id in job_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ends()) == 1
    assert finished_at(world, sweep_id) is not None


def test_cancel_ends_the_jobs_that_have_not_ended(world, make_sweep, ends):
    sweep_id, (first, second, third) = make_sweep(3)
    world.write(jobs.cancel, world.project, first)
    lease = LeaseToken.from_job(world.claim())

    assert [job.id for job in world.write(sweeps.cancel, world.project, sweep_id)] == [second, third]
    assert (world.get(second).cancel_requested, world.get(third).status) == (True, "cancelled")
    assert ends() == []
    world.write(jobs.release, lease)
    assert len(ends()) == 1
    assert world.write(sweeps.cancel, world.project, sweep_id) == []


def test_jobs_outlive_their_sweep(world, make_sweep):
    sweep_id, (job_id,) = make_sweep(1)
    world.write(sweeps.delete, world.project, sweep_id)

    assert world.get(job_id).sweep_id is None
    world.write(jobs.cancel, world.project, job_id)
    with pytest.raises(NotFound):
        world.read(sweeps.get, world.project, sweep_id)


def test_jobs_are_listed_by_sweep(world, make_sweep):
    sweep_id, job_ids = make_sweep(2)
    world.job()
    page = world.read(jobs.list_jobs, world.project, jobs.JobFilter(sweep_id=sweep_id, search="scratch"))

    assert sorted(job.id for job in page.items) == job_ids
    assert [row.sweep_point["number"] for row in world.read(sweeps.list_jobs, sweep_id)] == [1, 2]
