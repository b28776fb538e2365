"""Actions on a job: each cell of the contract's table."""

import pytest

from core.errors import InvalidState, NotFound
from core.reporting import Progress
from core.store import datasets, events, jobs
from core.store.jobs import LeaseToken

ACTIONS = {"cancel": jobs.cancel, "pause": jobs.pause, "resume": jobs.resume, "stop": jobs.stop, "retry": jobs.retry}

# status -> action -> (new status, pending action), or new status, or None for a 409
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
CELLS = [(status, action) for status, row in TABLE.items() for action in row]


@pytest.fixture
def make_job(world):
    def make(status):
        if status in {"queued", "paused", "cancelled"}:
            job_id = world.job()
            if status != "queued":
                world.write(ACTIONS["pause" if status == "paused" else "cancel"], world.project, job_id)
            return job_id
        lease = world.start_job()
        if status == "failed":
            world.write(jobs.fail, lease, {"code": "non_finite_loss", "message": "NaN"})
        elif status == "succeeded":
            world.write(jobs.succeed, lease, result={}, artifacts=[])
        return lease.job_id

    return make


@pytest.mark.parametrize(("status", "action"), CELLS)
def test_every_action_in_every_status(world, make_job, status, action):
    job_id, expected = make_job(status), TABLE[status][action]
    before = world.rows()

    if expected is None:
        with pytest.raises(InvalidState) as caught:
            world.write(ACTIONS[action], world.project, job_id)
        assert caught.value.extra["next_actions"] == jobs.next_actions(world.get(job_id))
        assert world.rows() == before
        return
    after = world.write(ACTIONS[action], world.project, job_id)
    status_after, pending = expected if isinstance(expected, tuple) else (expected, None)
    assert (after.status, after.pending_action) == (status_after, pending)
    log = world.read(events.list_events, world.project, job_id).items
    assert [e.seq for e in log] == list(range(1, len(log) + 1))
    if expected == status:  # no change
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
def test_next_actions_are_those_with_an_effect(world, make_job, status, actions):
    assert jobs.next_actions(world.get(make_job(status))) == actions


@pytest.mark.parametrize("action", ["cancel", "pause", "stop"])
def test_repeated_request_changes_nothing(world, action):
    lease = world.start_job()
    world.write(ACTIONS[action], world.project, lease.job_id)
    before = world.rows()

    again = world.write(ACTIONS[action], world.project, lease.job_id)

    assert (again.status, again.pending_action) == ("running", action)
    assert world.rows() == before


def test_cancel_overrides_other_requests_and_cannot_be_withdrawn(world):
    lease = world.start_job()
    for action in ("stop", "pause", "cancel", "pause", "resume", "stop"):
        job = world.write(ACTIONS[action], world.project, lease.job_id)

    assert job.pending_action == "cancel"
    assert jobs.next_actions(job) == []
    assert world.write(jobs.release_cancelled, lease).status == "cancelled"


def test_pending_pause_can_be_withdrawn(world):
    lease = world.start_job()
    paused = world.write(jobs.pause, world.project, lease.job_id)
    assert jobs.next_actions(paused) == ["cancel", "resume", "stop"]

    withdrawn = world.write(jobs.resume, world.project, lease.job_id)

    assert (withdrawn.status, withdrawn.pending_action) == ("running", None)
    # The worker had already read the pause request; the job must not stay paused.
    assert world.write(jobs.release_paused, lease).status == "queued"


def test_stop_request_stays_until_the_job_ends(world):
    lease = world.start_job()
    world.write(jobs.stop, world.project, lease.job_id)

    assert world.write(jobs.release, lease).pending_action == "stop"
    assert world.write(jobs.pause, world.project, lease.job_id).pending_action == "stop"
    assert world.write(jobs.resume, world.project, lease.job_id).pending_action == "stop"
    again = LeaseToken.from_job(world.claim())
    assert world.read(jobs.read_flags, again).stop is True
    assert world.write(jobs.succeed, again, result={}, artifacts=[]).pending_action is None


def test_retry_resets_error_and_requests(world):
    lease = world.start_job()
    world.write(jobs.stop, world.project, lease.job_id)
    for _ in range(3):
        world.expire_leases()
        world.claim()
    assert world.get(lease.job_id).error["code"] == "worker_lost"

    retried = world.write(jobs.retry, world.project, lease.job_id)

    assert (retried.status, retried.error, retried.finished_at) == ("queued", None, None)
    assert (retried.worker_losses, retried.pending_action, retried.is_terminal) == (0, None, False)


def test_retry_is_refused_if_an_input_was_deleted(world):
    job_id = world.job()
    world.write(jobs.cancel, world.project, job_id)
    world.write(datasets.delete, world.project, world.dataset)

    assert jobs.next_actions(world.get(job_id)) == []
    with pytest.raises(InvalidState, match="was deleted"):
        world.write(jobs.retry, world.project, job_id)


@pytest.mark.parametrize("action", ACTIONS)
def test_job_of_another_project_is_not_found(world, other_project, action):
    job_id = world.job()

    for project, object_id in ((other_project, job_id), (world.project, "job_nothing"), (world.project, "a\x00b")):
        with pytest.raises(NotFound):
            world.write(ACTIONS[action], project, object_id)


def test_paused_job_has_no_eta(world):
    lease = world.start_job()
    now = Progress(0.5, step=50, total_steps=100, epoch=5, images_per_second=10.0, eta_seconds=9.0)
    world.write(jobs.record_progress, lease, now)
    world.write(jobs.pause, world.project, lease.job_id)

    paused = world.write(jobs.release_paused, lease)

    assert paused.progress["step"] == 50
    assert (paused.progress["images_per_second"], paused.progress["eta_seconds"]) == (None, None)
    assert (paused.worker_id, paused.lease_expires_at) == (None, None)


@pytest.mark.parametrize(
    ("error", "actions"),
    [
        ({"retryable": True, "fix": None}, ["retry"]),
        ({"retryable": False, "fix": {"student": {"weights": "random"}}}, ["retry"]),
        ({"retryable": False, "fix": None}, []),
        ({}, ["retry"]),  # of an earlier version
    ],
)
def test_a_failed_job_offers_a_retry_only_if_it_can_help(world, error, actions):
    lease = world.start_job()
    world.write(jobs.fail, lease, {"code": "weights_unavailable", "message": "m", **error})

    assert jobs.next_actions(world.get(lease.job_id)) == actions


def test_a_retry_speaks_of_a_checkpoint_only_if_there_is_one(world):
    lease = world.start_job()
    world.write(jobs.fail, lease, {"code": "worker_lost", "message": "m"})
    world.write(jobs.retry, world.project, lease.job_id)

    assert "checkpoint" not in world.read(events.list_events, world.project, lease.job_id).items[-1].message
