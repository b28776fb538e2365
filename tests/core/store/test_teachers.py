"""Trained teachers by fingerprint, and completed teacher caches."""

import pytest

from core.store import events, jobs, projects, teachers
from core.store.jobs import LeaseToken


def test_saved_teacher_is_found_by_later_jobs(world, other_project):
    lease = world.start_job()
    assert world.write(teachers.find, world.project, "r") is None
    world.write(teachers.save, lease, "r", [world.file()])

    teacher = world.write(teachers.find, world.project, "r")

    assert teacher.files == [world.file().to_json()]
    assert world.read(teachers.exists, world.project, "r") is True
    assert world.write(teachers.find, other_project, "r") is None


def test_saving_again_replaces_the_teacher(world):
    first, second = world.start_job(), world.start_job()
    world.write(teachers.save, first, "r", [world.file("teachers/a")])
    world.write(teachers.save, second, "r", [world.file("teachers/b")])

    teacher = world.write(teachers.find, world.project, "r")
    assert (teacher.job_id, teacher.files[0]["key"]) == (second.job_id, "teachers/b")


def test_damaged_teacher_is_deleted(world):
    lease = world.start_job()
    world.write(teachers.save, lease, "r", [world.file()])
    world.write(teachers.delete_damaged, lease, "r")

    assert world.write(teachers.find, world.project, "r") is None


def test_delete_does_not_affect_other_projects(world):
    other = world.write(projects.create, "other").id
    foreign = world.start_job(project=other, dataset=world.ready_dataset(other))
    world.write(teachers.save, foreign, "r", [world.file()])
    own = LeaseToken.from_job(world.claim()) if world.job() else None
    world.write(teachers.delete_damaged, own, "r")

    assert world.read(teachers.exists, other, "r") is True


def test_unused_teachers_are_pruned(world):
    world.write(teachers.save, world.start_job(), "r", [world.file()])

    assert world.write(teachers.prune, 1) == 0
    assert world.write(teachers.prune, -1) == 1


COMPLETE = {"cache_key": "a", "views": 4, "stopped": None}


@pytest.fixture
def finish_job(world):
    """Factory of jobs with a teacher cache summary; returns the dataset of the job."""

    def make(data, *, succeeds=True, **options):
        lease = world.start_job(**options)
        world.write(events.append, lease, "teacher_cache.summary", "summary", data=data)
        if succeeds:
            world.write(jobs.succeed, lease, result={}, artifacts=[], model_id=None)
        return world.get(lease.job_id).dataset_id

    return make


def is_hit(world, dataset, *, project=None, cache_key="a", num_views=4):
    project = project or world.project
    return world.read(teachers.has_cached_outputs, project, dataset, cache_key=cache_key, num_views=num_views)


def test_cached_outputs_are_found_by_later_jobs(world, finish_job):
    dataset = finish_job(COMPLETE)

    assert is_hit(world, dataset)
    assert is_hit(world, dataset, num_views=3)
    assert not is_hit(world, dataset, num_views=5)
    assert not is_hit(world, dataset, cache_key="b")
    assert not is_hit(world, "ds_other")


@pytest.mark.parametrize(
    "data", [{**COMPLETE, "stopped": "the disk is full"}, {**COMPLETE, "views": 2}, {"hits": 1}, {}]
)
def test_incomplete_cache_is_not_a_hit(world, finish_job, data):
    assert not is_hit(world, finish_job(data))


def test_cache_of_an_unsuccessful_job_is_not_a_hit(world, finish_job):
    assert not is_hit(world, finish_job(COMPLETE, succeeds=False))


def test_cache_of_another_project_is_not_a_hit(world, finish_job, other_project):
    dataset = finish_job(COMPLETE)

    assert not is_hit(world, dataset, project=other_project)
