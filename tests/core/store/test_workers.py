"""Who is alive."""

from core.store import workers


def hello(world, worker_id="wrk_1", **options):
    return world.write(workers.register, worker_id=worker_id, role="worker", host="h", pid=1, **options)


def test_a_worker_says_hello_beats_and_says_goodbye(world):
    hello(world, accelerator="cpu", device="2 cores", details={"version": "1"})
    assert world.write(workers.record_heartbeat, "wrk_1", job_id="job_1") is True

    (found,) = world.read(workers.list_workers, alive_seconds=60)
    assert (found.id, found.accelerator, found.job_id, found.details) == ("wrk_1", "cpu", "job_1", {"version": "1"})

    world.write(workers.set_job, "wrk_1", None)
    assert world.read(workers.list_workers)[0].job_id is None
    world.write(workers.remove, "wrk_1")
    assert world.read(workers.list_workers) == []


def test_saying_hello_again_is_fine(world):
    first = hello(world).started_at
    hello(world, device="another")

    (found,) = world.read(workers.list_workers)
    assert (found.started_at, found.device) == (first, "another")


def test_an_unknown_worker_is_told_to_register(world):
    assert world.write(workers.record_heartbeat, "wrk_x") is False


def test_the_silent_are_forgotten(world):
    hello(world)

    assert world.write(workers.prune, 60) == []
    assert world.read(workers.list_workers, alive_seconds=-1) == []
    assert [one.id for one in world.write(workers.prune, -1)] == ["wrk_1"]
    assert world.read(workers.list_workers) == []
