"""Registry of worker processes."""

from core.store import workers


def register(world, worker_id="wrk_1", **options):
    return world.write(workers.register, worker_id=worker_id, role="worker", host="h", pid=1, **options)


def test_register_heartbeat_and_remove(world):
    register(world, accelerator="cpu", device="2 cores", details={"version": "1"})
    assert world.write(workers.record_heartbeat, "wrk_1", job_id="job_1") is True

    (worker,) = world.read(workers.list_workers, alive_seconds=60)
    assert (worker.id, worker.accelerator, worker.job_id, worker.details) == ("wrk_1", "cpu", "job_1", {"version": "1"})

    world.write(workers.record_heartbeat, "wrk_1")
    assert world.read(workers.list_workers)[0].job_id is None
    world.write(workers.remove, "wrk_1")
    assert world.read(workers.list_workers) == []


def test_repeated_registration_updates_the_worker(world):
    first = register(world).started_at
    register(world, device="another")

    (worker,) = world.read(workers.list_workers)
    assert (worker.started_at, worker.device) == (first, "another")


def test_heartbeat_of_an_unknown_worker_returns_false(world):
    assert world.write(workers.record_heartbeat, "wrk_x") is False


def test_silent_workers_are_pruned(world):
    register(world)

    assert world.write(workers.prune, 60) == []
    assert world.read(workers.list_workers, alive_seconds=-1) == []
    assert [worker.id for worker in world.write(workers.prune, -1)] == ["wrk_1"]
    assert world.read(workers.list_workers) == []
