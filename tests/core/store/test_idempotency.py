"""Idempotency keys: replay, conflicts, takeover."""

import threading

import pytest

from core.errors import IdempotencyKeyReused, RequestInFlight
from core.store import idempotency, projects
from core.store.idempotency import FirstRequest, Replay

BODY = {"id": "job_1", "nested": [1, {"a": None}]}


def test_second_request_is_replayed(world):
    new = world.write(idempotency.begin, world.project, "k", "f")
    assert isinstance(new, FirstRequest)
    world.write(idempotency.finish, new, 201, BODY)

    assert world.write(idempotency.begin, world.project, "k", "f") == Replay(201, BODY)


def test_key_with_another_body_is_refused(world):
    world.write(idempotency.begin, world.project, "k", "f")

    with pytest.raises(IdempotencyKeyReused):
        world.write(idempotency.begin, world.project, "k", "other")


def test_request_in_flight_is_a_conflict(world):
    world.write(idempotency.begin, world.project, "k", "f")

    with pytest.raises(RequestInFlight):
        world.write(idempotency.begin, world.project, "k", "f")


def test_keys_are_separate_per_project(world, other_project):
    world.write(idempotency.begin, world.project, "k", "f")

    assert isinstance(world.write(idempotency.begin, other_project, "k", "other"), FirstRequest)


def test_abandoned_request_frees_its_key(world):
    world.write(idempotency.abandon, world.write(idempotency.begin, world.project, "k", "f"))

    assert isinstance(world.write(idempotency.begin, world.project, "k", "other"), FirstRequest)


def test_dead_request_is_taken_over_and_cannot_finish(world):
    dead = world.write(idempotency.begin, world.project, "k", "f", in_flight_seconds=-1)
    successor = world.write(idempotency.begin, world.project, "k", "f")
    assert isinstance(successor, FirstRequest)

    def finish_late(session):
        projects.create(session, "second")
        idempotency.finish(session, dead, 201, {})

    with pytest.raises(RequestInFlight):
        world.write(finish_late)
    world.write(idempotency.abandon, dead)  # the record belongs to its successor
    world.write(idempotency.finish, successor, 201, BODY)

    assert world.write(idempotency.begin, world.project, "k", "f") == Replay(201, BODY)
    assert [p.name for p in world.read(projects.list_projects)] == ["main"]


def test_concurrent_duplicates_create_one_object(world):
    """With begin and finish in one transaction, later duplicates wait and get the response of the first."""
    responses, start = [], threading.Barrier(4)

    def request(name):
        start.wait()
        with world.db.write() as session:
            request_or_replay = idempotency.begin(session, world.project, "k", "f")
            if isinstance(request_or_replay, FirstRequest):
                project = projects.create(session, name)
                idempotency.finish(session, request_or_replay, 201, {"id": project.id})
                responses.append(project.id)
            else:
                responses.append(request_or_replay.body["id"])

    threads = [threading.Thread(target=request, args=(f"p{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(responses) == 4
    assert len(set(responses)) == 1
    assert len(world.read(projects.list_projects)) == 2


def test_old_records_are_deleted(world):
    world.write(idempotency.begin, world.project, "k", "f")

    assert world.write(idempotency.expire, 24) == 0
    assert world.write(idempotency.expire, -1) == 1
