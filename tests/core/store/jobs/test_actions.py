"""What a caller may ask of a job: the contract's table of moves, cell by cell."""

import pytest

from core.errors import InvalidState, NotFound
from core.reporting import Progress
from core.store import datasets, events, jobs
from core.store.jobs import LeaseToken

MOVES = {"cancel": jobs.cancel, "pause": jobs.pause, "resume": jobs.resume, "stop": jobs.stop, "retry": jobs.retry}

# status -> move -> (status afterwards, pending action afterwards), or None for 409
TABLE = {
    "queued": {"cancel": "cancelled", "pause": "paused", "resume": "queued", "stop": None, "retry": None},
    "running": {
        "cancel": ("running", "cancel"),
        "pause": ("running", "pause"),
        "resume": "running",
        "stop": ("running", "stop"),
        "retry": None,
    },
    "paused": {"cancel": "cancelled", "pause": "paused", "resume": "queued", "stop": ("queued", "stop"), "retry": None},
    "succeeded": {"cancel": None, "pause": None, "resume": None, "stop": "succeeded", "retry": None},
    "failed": {"cancel": None, "pause": None, "resume": None, "stop": None, "retry": "queued"},
    "cancelled": {"cancel": "cancelled", "pause": None, "resume": None, "stop": None, "retry": "queued"},
}
CELLS = [(status, move) for status, row in TABLE.items() for move in row]


@pytest.fixture
def job_that_is(world):
    def make(status):
        if status in {"queued", "paused", "cancelled"}:
            job_id = world.job()
            if status != "queued":
                world.write(MOVES["pause" if status == "paused" else "cancel"], world.project, job_id)
            return job_id
        lease = world.start_job()
        if status == "failed":
            world.write(jobs.fail, lease, {"code": "non_finite_loss", "message": "NaN"})
        elif status == "succeeded":
            world.write(jobs.succeed, lease, result={}, artifacts=[])
        return lease.job_id

    return make


@pytest.mark.parametrize(("status", "move"), CELLS)
def test_the_table_of_moves(world, job_that_is, status, move):
    job_id, wanted = job_that_is(status), TABLE[status][move]
    before = world.rows()

    if wanted is None:
        with pytest.raises(InvalidState) as caught:
            world.write(MOVES[move], world.project, job_id)
        assert caught.value.extra["next_actions"] == jobs.next_actions(world.get(job_id))
        assert world.rows() == before
        return
    after = world.write(MOVES[move], world.project, job_id)
    status_after, pending = wanted if isinstance(wanted, tuple) else (wanted, None)
    assert (after.status, after.pending_action) == (status_after, pending)
    log = world.read(events.list_events, world.project, job_id).items
    assert [e.seq for e in log] == list(range(1, len(log) + 1))
    if wanted == status:  # as it is
        assert world.rows() == before
    else:
        assert log[-1].data["status"] == status_after


@pytest.mark.parametrize(
    ("status", "actions"),
    [
        ("queued", ["cancel", "pause"]),
        ("running", ["cancel", "pause", "stop"]),
        ("paused", ["cancel", "resume", "stop"]),
        ("succeeded", []),
        ("failed", ["retry"]),
        ("cancelled", ["retry"]),
    ],
)
def test_next_actions_are_the_moves_that_do_something(world, job_that_is, status, actions):
    assert jobs.next_actions(world.get(job_that_is(status))) == actions


@pytest.mark.parametrize("move", ["cancel", "pause", "stop"])
def test_asking_twice_is_asking_once(world, move):
    lease = world.start_job()
    world.write(MOVES[move], world.project, lease.job_id)
    before = world.rows()

    again = world.write(MOVES[move], world.project, lease.job_id)

    assert (again.status, again.pending_action) == ("running", move)
    assert world.rows() == before


def test_a_cancel_outranks_what_was_asked_before_and_is_not_undone(world):
    lease = world.start_job()
    for move in ("stop", "pause", "cancel", "pause", "resume", "stop"):
        job = world.write(MOVES[move], world.project, lease.job_id)

    assert job.pending_action == "cancel"
    assert jobs.next_actions(job) == []
    assert world.write(jobs.release_cancelled, lease).status == "cancelled"


def test_a_pause_can_be_taken_back_before_it_happens(world):
    lease = world.start_job()
    asked = world.write(jobs.pause, world.project, lease.job_id)
    assert jobs.next_actions(asked) == ["cancel", "resume", "stop"]

    taken_back = world.write(jobs.resume, world.project, lease.job_id)

    assert (taken_back.status, taken_back.pending_action) == ("running", None)
    # The worker had seen it already and left: the job must not stay paused.
    assert world.write(jobs.release_paused, lease).status == "queued"


def test_a_stop_stays_asked_until_the_job_ends(world):
    lease = world.start_job()
    world.write(jobs.stop, world.project, lease.job_id)

    assert world.write(jobs.release, lease).pending_action == "stop"
    assert world.write(jobs.pause, world.project, lease.job_id).pending_action == "stop"
    assert world.write(jobs.resume, world.project, lease.job_id).pending_action == "stop"
    again = LeaseToken.from_job(world.claim())
    assert world.read(jobs.read_flags, again).stop is True
    assert world.write(jobs.succeed, again, result={}, artifacts=[]).pending_action is None


def test_retry_forgets_the_failure_and_what_was_asked(world):
    lease = world.start_job()
    world.write(jobs.stop, world.project, lease.job_id)
    for _ in range(3):
        world.expire_leases()
        world.claim()
    assert world.get(lease.job_id).error["code"] == "worker_lost"

    retried = world.write(jobs.retry, world.project, lease.job_id)

    assert (retried.status, retried.error, retried.finished_at) == ("queued", None, None)
    assert (retried.worker_losses, retried.pending_action, retried.is_terminal) == (0, None, False)


def test_retry_is_refused_where_an_input_is_gone(world):
    job_id = world.job()
    world.write(jobs.cancel, world.project, job_id)
    world.write(datasets.delete, world.project, world.dataset)

    assert jobs.next_actions(world.get(job_id)) == []
    with pytest.raises(InvalidState, match="was deleted"):
        world.write(jobs.retry, world.project, job_id)


@pytest.mark.parametrize("move", MOVES)
def test_somebody_elses_job_is_not_there(world, other_project, move):
    job_id = world.job()

    for project, wanted in ((other_project, job_id), (world.project, "job_nothing"), (world.project, "a\x00b")):
        with pytest.raises(NotFound):
            world.write(MOVES[move], project, wanted)


def test_a_paused_job_stands_still_and_has_no_eta(world):
    lease = world.start_job()
    now = Progress(0.5, step=50, total_steps=100, epoch=5, images_per_second=10.0, eta_seconds=9.0)
    world.write(jobs.record_progress, lease, now)
    world.write(jobs.pause, world.project, lease.job_id)

    paused = world.write(jobs.release_paused, lease)

    assert paused.progress["step"] == 50
    assert (paused.progress["images_per_second"], paused.progress["eta_seconds"]) == (None, None)
    assert (paused.worker_id, paused.lease_expires_at) == (None, None)
