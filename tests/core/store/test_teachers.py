"""Trained teachers are found again by their recipe."""

import pytest

from core.store import events, jobs, projects, teachers
from core.store.jobs import LeaseToken


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
    mine = LeaseToken.of(world.claim()) if world.job() else None
    world.do(teachers.forget, mine, "r")

    assert world.ask(teachers.known, other, "r") is True


def test_unused_teachers_are_pruned(world):
    world.do(teachers.keep, world.attempt(), "r", [world.file()])

    assert world.do(teachers.prune, 1) == 0
    assert world.do(teachers.prune, -1) == 1


WHOLE = {"asked": "a", "views": 4, "stopped": None}


@pytest.fixture
def told(world):
    """Makes a job that told what it asked; its dataset."""

    def make(data, *, succeeds=True, **options):
        attempt = world.attempt(**options)
        world.do(events.append, attempt, "teacher_cache.summary", "some views", data=data)
        if succeeds:
            world.do(jobs.succeed, attempt, result={}, artifacts=[], model_id=None)
        return world.get(attempt.job_id).dataset_id

    return make


def known(world, dataset, *, project=None, question="a", views=4):
    return world.ask(teachers.has_cached_outputs, project or world.project, dataset, asked=question, views=views)


def test_what_a_job_stored_is_known_to_the_next_one(world, told):
    dataset = told(WHOLE)

    assert known(world, dataset)
    assert known(world, dataset, views=3)
    assert not known(world, dataset, views=5)
    assert not known(world, dataset, question="b")
    assert not known(world, "ds_other")


@pytest.mark.parametrize("data", [{**WHOLE, "stopped": "the disk is full"}, {**WHOLE, "views": 2}, {"hits": 1}, {}])
def test_what_was_not_stored_whole_is_no_hit(world, told, data):
    assert not known(world, told(data))


def test_a_job_that_did_not_succeed_is_no_hit(world, told):
    assert not known(world, told(WHOLE, succeeds=False))


def test_what_another_project_asked_stays_its_own(world, told, stranger):
    dataset = told(WHOLE)

    assert not known(world, dataset, project=stranger)
