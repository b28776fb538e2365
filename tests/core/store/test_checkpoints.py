"""Checkpoints: retention, garbage and resuming."""

import pytest

from core.errors import InUse, InvalidSpec, NotFound
from core.store import checkpoints, events, jobs
from core.store.jobs import LeaseToken


def list_steps(world, job_id):
    return [checkpoint.step for checkpoint in world.read(checkpoints.list_checkpoints, world.project, job_id).items]


def test_checkpoint_has_its_fields(world):
    lease = world.start_job()
    saved = world.checkpoint(lease, 20, metrics={"train/loss": 0.5}).checkpoint

    loaded = world.read(checkpoints.get, world.project, lease.job_id, saved.id)

    assert (loaded.step, loaded.epoch, loaded.metrics, loaded.size_bytes) == (20, 2, {"train/loss": 0.5}, 10)
    assert checkpoints.weights_file(loaded).name == "model.safetensors"


def test_newest_two_stay(world):
    lease = world.start_job()
    garbage = [world.checkpoint(lease, step).garbage_keys for step in (10, 20, 30, 40)]

    assert list_steps(world, lease.job_id) == [40, 30]
    assert [[key.rsplit("/", 1)[-1] for key in keys] for keys in garbage] == [
        [],
        [],
        ["model.safetensors", "state.pt"],
        ["model.safetensors", "state.pt"],
    ]


def test_retained_weights_stay_without_training_state(world):
    lease = world.start_job()
    saved = [world.checkpoint(lease, step, retain=step == 10) for step in (10, 20, 30)]

    assert list_steps(world, lease.job_id) == [30, 20, 10]
    assert [key.rsplit("/", 1)[-1] for key in saved[-1].garbage_keys] == ["state.pt"]
    old = world.read(checkpoints.get, world.project, lease.job_id, saved[0].checkpoint.id)
    assert (old.resumable, len(old.files)) == (False, 1)
    assert [checkpoint.step for checkpoint in world.read(checkpoints.list_resumable, lease)] == [30, 20]


def test_step_saved_twice_is_one_checkpoint(world):
    lease = world.start_job()
    first = world.checkpoint(lease, 10, retain=True)
    second = world.checkpoint(lease, 10)

    assert list_steps(world, lease.job_id) == [10]
    assert second.checkpoint.retained is True
    assert len(second.garbage_keys) == 2
    assert first.checkpoint.id != second.checkpoint.id


def test_tracks_are_separate_and_teacher_tracks_are_hidden(world):
    lease = world.start_job()
    for step in (10, 20, 30):
        world.checkpoint(lease, step, track="teacher-0")
    hidden = world.checkpoint(lease, 40, track="teacher-0").checkpoint
    world.checkpoint(lease, 5)

    assert list_steps(world, lease.job_id) == [5]
    with pytest.raises(NotFound):
        world.read(checkpoints.get, world.project, lease.job_id, hidden.id)
    resumable = [(checkpoint.track, checkpoint.step) for checkpoint in world.read(checkpoints.list_resumable, lease)]
    assert resumable == [("teacher-0", 40), ("teacher-0", 30), ("distill", 5)]
    assert world.get(lease.job_id).checkpoint_step == 5


def test_discard_falls_back_to_the_previous_checkpoint(world):
    lease = world.start_job()
    world.checkpoint(lease, 10)
    damaged = world.checkpoint(lease, 20).checkpoint

    keys = world.write(checkpoints.discard, lease, damaged.id)

    assert len(keys) == 2
    assert [checkpoint.step for checkpoint in world.read(checkpoints.list_resumable, lease)] == [10]
    assert world.get(lease.job_id).checkpoint_step == 10
    assert world.write(checkpoints.discard, lease, damaged.id) == ()


def test_later_attempt_finds_earlier_checkpoints(world):
    lease = world.start_job()
    world.checkpoint(lease, 10)
    world.write(jobs.release, lease)

    again = LeaseToken.from_job(world.claim())

    assert [(checkpoint.step, checkpoint.attempt) for checkpoint in world.read(checkpoints.list_resumable, again)] == [
        (10, 1)
    ]


def test_checkpoints_of_another_project_are_hidden(world, other_project):
    lease = world.start_job()
    saved = world.checkpoint(lease, 10).checkpoint

    assert world.read(checkpoints.list_checkpoints, other_project, lease.job_id).items == []
    for project, checkpoint_id in ((other_project, saved.id), (world.project, "ckpt_nothing")):
        with pytest.raises(NotFound):
            world.read(checkpoints.get, project, lease.job_id, checkpoint_id)


FAILURE = {"code": "x", "message": "x"}
EXPIRED, RETAINED = -1.0, 1.0  # days


def names_of(keys):
    return sorted(key.rsplit("/", 1)[-1] for key in keys)


def test_training_state_of_a_failed_job_expires_and_a_retry_restarts(world):
    lease = world.start_job()
    for step in (10, 20):
        world.checkpoint(lease, step)
    world.checkpoint(lease, 5, track="teacher-0")
    world.write(jobs.fail, lease, FAILURE)

    assert world.write(checkpoints.prune_expired, RETAINED) is None
    assert names_of(world.write(checkpoints.prune_expired, EXPIRED)) == ["model.safetensors", *["state.pt"] * 3]
    assert world.write(checkpoints.prune_expired, EXPIRED) is None
    assert list_steps(world, lease.job_id) == [20, 10], "their weights stay"

    world.write(jobs.retry, world.project, lease.job_id)
    job = world.get(lease.job_id)
    event = world.read(events.list_events, world.project, job.id).items[-1]
    assert (job.checkpoint_step, job.progress["step"], list_steps(world, job.id)) == (0, 0, [])
    assert "restarts, because the retention time of its checkpoints is over" in event.message
    assert event.data["restarts"] == ["distill"]
    assert world.read(checkpoints.list_resumable, LeaseToken.from_job(world.claim())) == []


def test_a_retry_before_the_retention_time_resumes(world):
    lease = world.start_job()
    world.checkpoint(lease, 10)
    world.write(jobs.fail, lease, FAILURE)
    assert world.write(checkpoints.prune_expired, RETAINED) is None

    world.write(jobs.retry, world.project, lease.job_id)

    event = world.read(events.list_events, world.project, lease.job_id).items[-1]
    assert event.message == "Requeued; resumes from the last checkpoint."
    assert [saved.step for saved in world.read(checkpoints.list_resumable, LeaseToken.from_job(world.claim()))] == [10]


@pytest.mark.parametrize("end", ["running", "paused", "queued"])
def test_training_state_of_an_unfinished_job_does_not_expire(world, end):
    lease = world.start_job()
    world.checkpoint(lease, 10)
    if end != "running":
        if end == "paused":
            world.write(jobs.pause, world.project, lease.job_id)
        world.write(jobs.release, lease)

    assert world.get(lease.job_id).status == end
    assert world.write(checkpoints.prune_expired, EXPIRED) is None


def test_a_changed_retry_after_the_retention_time_restarts_the_student(world):
    lease = world.start_job()
    world.checkpoint(lease, 10)
    world.write(jobs.fail, lease, FAILURE)
    world.write(checkpoints.prune_expired, EXPIRED)
    old = world.get(lease.job_id)
    spec = {**old.spec, "name": "again", "priority": 0, "metadata": {}, "resources": {"accelerator": "auto"}}
    revision = jobs.Revision(
        base_seq=old.last_seq, spec=spec, resolved=True, total_steps=50, changes=["name"], tracks=(), warnings=()
    )

    job, garbage = world.write(jobs.retry_revised, world.project, old.id, revision)

    assert (job.checkpoint_step, job.progress["total_steps"]) == (0, 50)
    assert names_of(garbage) == ["model.safetensors"]


def test_a_checkpoint_that_another_job_starts_from_stays_until_that_job_has_ended(world):
    lease = world.start_job()
    source = world.checkpoint(lease, 10).checkpoint
    spec = {"student": {"architecture": "vit", "weights": source.id}}
    fork = world.job(spec=spec, references=[source.id])
    garbage = [key for step in (20, 30, 40, 10) for key in world.checkpoint(lease, step).garbage_keys]

    found = world.read(checkpoints.find, world.project, source.id)
    assert [file.name for file in checkpoints.model_files(found)] == ["model.safetensors"]
    assert checkpoints.weights_file(found).key not in garbage
    assert world.get(lease.job_id).worker_losses == 0
    world.write(jobs.fail, lease, {"code": "x", "message": "x"})
    with pytest.raises(InUse):
        world.write(jobs.delete, world.project, lease.job_id)
    world.write(jobs.cancel, world.project, fork)
    world.write(jobs.delete, world.project, lease.job_id)
    assert world.get(fork).missing_input == lease.job_id


def test_a_job_cannot_start_from_a_deleted_checkpoint(world):
    lease = world.start_job()
    deleted = world.checkpoint(lease, 10).checkpoint.id
    for step in (20, 30):
        world.checkpoint(lease, step)

    with pytest.raises(InvalidSpec) as caught:
        world.job(spec={"student": {"architecture": "vit", "weights": deleted}}, references=[deleted])

    assert [error.pointer for error in caught.value.errors] == ["/student/weights"]
