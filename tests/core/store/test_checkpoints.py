"""Checkpoints: what is kept, what is garbage, what a later attempt finds."""

import pytest

from core.errors import NotFound
from core.store import checkpoints, jobs
from core.store.jobs import LeaseToken


def listed(world, job_id):
    return [one.step for one in world.ask(checkpoints.list_checkpoints, world.project, job_id).items]


def test_a_checkpoint_says_what_it_is(world):
    attempt = world.attempt()
    saved = world.checkpoint(attempt, 20, metrics={"train/loss": 0.5}).checkpoint

    found = world.ask(checkpoints.get, world.project, attempt.job_id, saved.id)

    assert (found.step, found.epoch, found.metrics, found.size_bytes) == (20, 2, {"train/loss": 0.5}, 10)
    assert checkpoints.weights_file(found).name == "model.safetensors"


def test_the_newest_two_are_kept(world):
    attempt = world.attempt()
    garbage = [world.checkpoint(attempt, step).garbage for step in (10, 20, 30, 40)]

    assert listed(world, attempt.job_id) == [40, 30]
    assert [[key.rsplit("/", 1)[-1] for key in keys] for keys in garbage] == [
        [],
        [],
        ["model.safetensors", "state.pt"],
        ["model.safetensors", "state.pt"],
    ]


def test_weights_that_were_asked_for_stay_without_their_state(world):
    attempt = world.attempt()
    saved = [world.checkpoint(attempt, step, keep=step == 10) for step in (10, 20, 30)]

    assert listed(world, attempt.job_id) == [30, 20, 10]
    assert [key.rsplit("/", 1)[-1] for key in saved[-1].garbage] == ["state.pt"]
    old = world.ask(checkpoints.get, world.project, attempt.job_id, saved[0].checkpoint.id)
    assert (old.resumable, len(old.files)) == (False, 1)
    assert [one.step for one in world.ask(checkpoints.newest, attempt)] == [30, 20]


def test_the_same_step_saved_twice_is_one_checkpoint(world):
    attempt = world.attempt()
    first = world.checkpoint(attempt, 10, keep=True)
    second = world.checkpoint(attempt, 10)

    assert listed(world, attempt.job_id) == [10]
    assert second.checkpoint.kept is True
    assert len(second.garbage) == 2
    assert first.checkpoint.id != second.checkpoint.id


def test_tracks_are_kept_apart_and_a_teachers_is_nobodys_business(world):
    attempt = world.attempt()
    for step in (10, 20, 30):
        world.checkpoint(attempt, step, track="teacher-0")
    hidden = world.checkpoint(attempt, 40, track="teacher-0").checkpoint
    world.checkpoint(attempt, 5)

    assert listed(world, attempt.job_id) == [5]
    with pytest.raises(NotFound):
        world.ask(checkpoints.get, world.project, attempt.job_id, hidden.id)
    found = [(one.track, one.step) for one in world.ask(checkpoints.newest, attempt)]
    assert found == [("teacher-0", 40), ("teacher-0", 30), ("distill", 5)]
    assert world.get(attempt.job_id).checkpoint_step == 5


def test_a_damaged_checkpoint_gives_way_to_the_one_before(world):
    attempt = world.attempt()
    world.checkpoint(attempt, 10)
    damaged = world.checkpoint(attempt, 20).checkpoint

    keys = world.do(checkpoints.discard, attempt, damaged.id)

    assert len(keys) == 2
    assert [one.step for one in world.ask(checkpoints.newest, attempt)] == [10]
    assert world.get(attempt.job_id).checkpoint_step == 10
    assert world.do(checkpoints.discard, attempt, damaged.id) == ()


def test_a_later_attempt_finds_what_an_earlier_one_saved(world):
    attempt = world.attempt()
    world.checkpoint(attempt, 10)
    world.do(jobs.release, attempt)

    again = LeaseToken.of(world.claim())

    assert [(one.step, one.attempt) for one in world.ask(checkpoints.newest, again)] == [(10, 1)]


def test_a_stranger_sees_nothing(world, stranger):
    attempt = world.attempt()
    saved = world.checkpoint(attempt, 10).checkpoint

    assert world.ask(checkpoints.list_checkpoints, stranger, attempt.job_id).items == []
    for project, wanted in ((stranger, saved.id), (world.project, "ckpt_nothing")):
        with pytest.raises(NotFound):
            world.ask(checkpoints.get, project, attempt.job_id, wanted)
