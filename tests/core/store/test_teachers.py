"""Trained teachers are found again by their recipe."""

import pytest

from core.store import events, jobs, projects, teachers
from core.store.jobs import LeaseToken


def test_a_teacher_is_found_by_every_later_job(world, other_project):
    lease = world.start_job()
    assert world.write(teachers.find, world.project, "r") is None
    world.write(teachers.save, lease, "r", [world.file()])

    found = world.write(teachers.find, world.project, "r")

    assert found.files == [world.file().to_json()]
    assert world.read(teachers.exists, world.project, "r") is True
    assert world.write(teachers.find, other_project, "r") is None
    assert [one.recipe for one in world.read(teachers.list_teachers, world.project)] == ["r"]


def test_a_teacher_trained_again_replaces_the_damaged_one(world):
    first, second = world.start_job(), world.start_job()
    world.write(teachers.save, first, "r", [world.file("teachers/a")])
    world.write(teachers.save, second, "r", [world.file("teachers/b")])

    found = world.write(teachers.find, world.project, "r")
    assert (found.job_id, found.files[0]["key"]) == (second.job_id, "teachers/b")


def test_a_damaged_teacher_can_be_forgotten(world):
    lease = world.start_job()
    world.write(teachers.save, lease, "r", [world.file()])
    world.write(teachers.delete_damaged, lease, "r")

    assert world.write(teachers.find, world.project, "r") is None


def test_a_teacher_of_another_project_is_not_touched(world):
    other = world.write(projects.create, "other").id
    theirs = world.start_job(project=other, dataset=world.ready_dataset(other))
    world.write(teachers.save, theirs, "r", [world.file()])
    mine = LeaseToken.from_job(world.claim()) if world.job() else None
    world.write(teachers.delete_damaged, mine, "r")

    assert world.read(teachers.exists, other, "r") is True


def test_unused_teachers_are_pruned(world):
    world.write(teachers.save, world.start_job(), "r", [world.file()])

    assert world.write(teachers.prune, 1) == 0
    assert world.write(teachers.prune, -1) == 1


WHOLE = {"cache_key": "a", "views": 4, "stopped": None}


@pytest.fixture
def told(world):
    """Makes a job that told what it asked; its dataset."""

    def make(data, *, succeeds=True, **options):
        lease = world.start_job(**options)
        world.write(events.append, lease, "teacher_cache.summary", "some views", data=data)
        if succeeds:
            world.write(jobs.succeed, lease, result={}, artifacts=[], model_id=None)
        return world.get(lease.job_id).dataset_id

    return make


def known(world, dataset, *, project=None, question="a", views=4):
    return world.read(teachers.has_cached_outputs, project or world.project, dataset, asked=question, views=views)


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


def test_what_another_project_asked_stays_its_own(world, told, other_project):
    dataset = told(WHOLE)

    assert not known(world, dataset, project=other_project)
