"""Checkpoints: what is kept, what is garbage, what a later attempt finds."""

import pytest

from core.errors import NotFound
from core.store import checkpoints, jobs
from core.store.jobs import LeaseToken


def listed(world, job_id):
    return [one.step for one in world.read(checkpoints.list_checkpoints, world.project, job_id).items]


def test_a_checkpoint_says_what_it_is(world):
    lease = world.start_job()
    saved = world.checkpoint(lease, 20, metrics={"train/loss": 0.5}).checkpoint

    found = world.read(checkpoints.get, world.project, lease.job_id, saved.id)

    assert (found.step, found.epoch, found.metrics, found.size_bytes) == (20, 2, {"train/loss": 0.5}, 10)
    assert checkpoints.weights_file(found).name == "model.safetensors"


def test_the_newest_two_are_kept(world):
    lease = world.start_job()
    garbage = [world.checkpoint(lease, step).garbage_keys for step in (10, 20, 30, 40)]

    assert listed(world, lease.job_id) == [40, 30]
    assert [[key.rsplit("/", 1)[-1] for key in keys] for keys in garbage] == [
        [],
        [],
        ["model.safetensors", "state.pt"],
        ["model.safetensors", "state.pt"],
    ]


def test_weights_that_were_asked_for_stay_without_their_state(world):
    lease = world.start_job()
    saved = [world.checkpoint(lease, step, retain=step == 10) for step in (10, 20, 30)]

    assert listed(world, lease.job_id) == [30, 20, 10]
    assert [key.rsplit("/", 1)[-1] for key in saved[-1].garbage_keys] == ["state.pt"]
    old = world.read(checkpoints.get, world.project, lease.job_id, saved[0].checkpoint.id)
    assert (old.resumable, len(old.files)) == (False, 1)
    assert [one.step for one in world.read(checkpoints.list_resumable, lease)] == [30, 20]


def test_the_same_step_saved_twice_is_one_checkpoint(world):
    lease = world.start_job()
    first = world.checkpoint(lease, 10, retain=True)
    second = world.checkpoint(lease, 10)

    assert listed(world, lease.job_id) == [10]
    assert second.checkpoint.retained is True
    assert len(second.garbage_keys) == 2
    assert first.checkpoint.id != second.checkpoint.id


def test_tracks_are_kept_apart_and_a_teachers_is_nobodys_business(world):
    lease = world.start_job()
    for step in (10, 20, 30):
        world.checkpoint(lease, step, track="teacher-0")
    hidden = world.checkpoint(lease, 40, track="teacher-0").checkpoint
    world.checkpoint(lease, 5)

    assert listed(world, lease.job_id) == [5]
    with pytest.raises(NotFound):
        world.read(checkpoints.get, world.project, lease.job_id, hidden.id)
    found = [(one.track, one.step) for one in world.read(checkpoints.list_resumable, lease)]
    assert found == [("teacher-0", 40), ("teacher-0", 30), ("distill", 5)]
    assert world.get(lease.job_id).checkpoint_step == 5


def test_a_damaged_checkpoint_gives_way_to_the_one_before(world):
    lease = world.start_job()
    world.checkpoint(lease, 10)
    damaged = world.checkpoint(lease, 20).checkpoint

    keys = world.write(checkpoints.discard, lease, damaged.id)

    assert len(keys) == 2
    assert [one.step for one in world.read(checkpoints.list_resumable, lease)] == [10]
    assert world.get(lease.job_id).checkpoint_step == 10
    assert world.write(checkpoints.discard, lease, damaged.id) == ()


def test_a_later_attempt_finds_what_an_earlier_one_saved(world):
    lease = world.start_job()
    world.checkpoint(lease, 10)
    world.write(jobs.release, lease)

    again = LeaseToken.from_job(world.claim())

    assert [(one.step, one.attempt) for one in world.read(checkpoints.list_resumable, again)] == [(10, 1)]


def test_a_stranger_sees_nothing(world, other_project):
    lease = world.start_job()
    saved = world.checkpoint(lease, 10).checkpoint

    assert world.read(checkpoints.list_checkpoints, other_project, lease.job_id).items == []
    for project, wanted in ((other_project, saved.id), (world.project, "ckpt_nothing")):
        with pytest.raises(NotFound):
            world.read(checkpoints.get, project, lease.job_id, wanted)
