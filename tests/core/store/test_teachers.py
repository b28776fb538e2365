"""Trained teachers are found again by their recipe."""

from core.store import projects, teachers
from core.store.jobs import Attempt


def test_a_teacher_is_found_by_every_later_job(world, stranger):
    attempt = world.attempt()
    assert world.do(teachers.find, world.project, "r") is None
    world.do(teachers.keep, attempt, "r", [world.file()])

    found = world.do(teachers.find, world.project, "r")

    assert found.files == [world.file().as_json()]
    assert world.ask(teachers.known, world.project, "r") is True
    assert world.do(teachers.find, stranger, "r") is None
    assert [one.recipe for one in world.ask(teachers.list_teachers, world.project)] == ["r"]


def test_a_teacher_trained_again_replaces_the_damaged_one(world):
    first, second = world.attempt(), world.attempt()
    world.do(teachers.keep, first, "r", [world.file("teachers/a")])
    world.do(teachers.keep, second, "r", [world.file("teachers/b")])

    found = world.do(teachers.find, world.project, "r")
    assert (found.job_id, found.files[0]["key"]) == (second.job_id, "teachers/b")


def test_a_damaged_teacher_can_be_forgotten(world):
    attempt = world.attempt()
    world.do(teachers.keep, attempt, "r", [world.file()])
    world.do(teachers.forget, attempt, "r")

    assert world.do(teachers.find, world.project, "r") is None


def test_a_teacher_of_another_project_is_not_touched(world):
    other = world.do(projects.create, "other").id
    theirs = world.attempt(project=other, dataset=world.ready_dataset(other))
    world.do(teachers.keep, theirs, "r", [world.file()])
    mine = Attempt.of(world.claim()) if world.job() else None
    world.do(teachers.forget, mine, "r")

    assert world.ask(teachers.known, other, "r") is True


def test_unused_teachers_are_pruned(world):
    world.do(teachers.keep, world.attempt(), "r", [world.file()])

    assert world.do(teachers.prune, 1) == 0
    assert world.do(teachers.prune, -1) == 1
