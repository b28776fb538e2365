"""One answer for a request, however often it is sent."""

import threading

import pytest

from core.errors import IdempotencyKeyReused, RequestInFlight
from core.store import idempotency, projects
from core.store.idempotency import FirstRequest, Replay

BODY = {"id": "job_1", "nested": [1, {"a": None}]}


def test_the_second_time_is_a_replay(world):
    new = world.write(idempotency.begin, world.project, "k", "f")
    assert isinstance(new, FirstRequest)
    world.write(idempotency.finish, new, 201, BODY)

    assert world.write(idempotency.begin, world.project, "k", "f") == Replay(201, BODY)


def test_another_body_is_refused(world):
    world.write(idempotency.begin, world.project, "k", "f")

    with pytest.raises(IdempotencyKeyReused):
        world.write(idempotency.begin, world.project, "k", "other")


def test_one_still_in_flight_is_a_conflict(world):
    world.write(idempotency.begin, world.project, "k", "f")

    with pytest.raises(RequestInFlight):
        world.write(idempotency.begin, world.project, "k", "f")


def test_keys_of_projects_are_apart(world, other_project):
    world.write(idempotency.begin, world.project, "k", "f")

    assert isinstance(world.write(idempotency.begin, other_project, "k", "other"), FirstRequest)


def test_a_request_that_created_nothing_frees_its_key(world):
    world.write(idempotency.abandon, world.write(idempotency.begin, world.project, "k", "f"))

    assert isinstance(world.write(idempotency.begin, world.project, "k", "other"), FirstRequest)


def test_a_request_that_died_is_taken_over_and_cannot_answer_any_more(world):
    dead = world.write(idempotency.begin, world.project, "k", "f", in_flight_seconds=-1)
    heir = world.write(idempotency.begin, world.project, "k", "f")
    assert isinstance(heir, FirstRequest)

    def answer_late(session):
        projects.create(session, "made twice")
        idempotency.finish(session, dead, 201, {})

    with pytest.raises(RequestInFlight):
        world.write(answer_late)
    world.write(idempotency.abandon, dead)  # not its record any more
    world.write(idempotency.finish, heir, 201, BODY)

    assert world.write(idempotency.begin, world.project, "k", "f") == Replay(201, BODY)
    assert [p.name for p in world.read(projects.list_projects)] == ["mine"]


def test_twins_at_the_same_time_create_once(world):
    """Begun and finished in one unit of work: the later twin waits and gets the first one's answer."""
    answers, start = [], threading.Barrier(4)

    def request(name):
        start.wait()
        with world.db.write() as session:
            begun = idempotency.begin(session, world.project, "k", "f")
            if isinstance(begun, FirstRequest):
                made = projects.create(session, name)
                idempotency.finish(session, begun, 201, {"id": made.id})
                answers.append(made.id)
            else:
                answers.append(begun.body["id"])

    threads = [threading.Thread(target=request, args=(f"p{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(answers) == 4
    assert len(set(answers)) == 1
    assert len(world.read(projects.list_projects)) == 2


def test_old_records_are_forgotten(world):
    world.write(idempotency.begin, world.project, "k", "f")

    assert world.write(idempotency.expire, 24) == 0
    assert world.write(idempotency.expire, -1) == 1
