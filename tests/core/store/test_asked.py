"""An estimate knows what jobs of its project have stored, and nothing of anybody else's."""

import pytest

from core.store import asked, events, jobs

WHOLE = {"asked": "a", "views": 4, "stopped": None}


@pytest.fixture
def told(world):
    """Makes a job that told what it asked; its dataset."""

    def make(data, *, succeeds=True, **options):
        attempt = world.attempt(**options)
        world.do(events.append, attempt, "teacher.cached", "some views", data=data)
        if succeeds:
            world.do(jobs.succeed, attempt, result={}, artifacts=[], model_id=None)
        return world.get(attempt.job_id).dataset_id

    return make


def known(world, dataset, *, project=None, question="a", views=4):
    return world.ask(asked.was_stored, project or world.project, dataset, asked=question, views=views)


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
