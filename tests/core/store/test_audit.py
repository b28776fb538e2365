"""The audit log."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from core.errors import InvalidRequest
from core.store import audit
from core.store.db import utc_now
from core.store.keys import Caller
from core.store.project_tables import AuditEntry


@pytest.fixture
def who(world):
    return Caller("key_a", world.project, frozenset(), request_id="req_1", client_address="203.0.113.7")


def found(world, project=None, **filters):
    page = world.read(audit.list_entries, project or world.project, **filters)
    return [(entry.key_id, entry.action, entry.object_id) for entry in page.items]


def test_an_entry_says_who_did_what_to_what_when_and_from_where(world, who):
    world.write(audit.record, who, "job.cancel", "job_1")
    (entry,) = world.read(audit.list_entries, world.project).items

    assert (entry.key_id, entry.action, entry.object_id, entry.outcome) == ("key_a", "job.cancel", "job_1", "done")
    assert (entry.request_id, entry.client_address) == ("req_1", "203.0.113.7")
    assert abs(entry.created_at - world.read(utc_now)) < timedelta(minutes=1)


def test_it_is_gone_with_the_change_that_was_rolled_back(world, who):
    def fail_late(session):
        audit.record(session, who, "job.cancel", "job_1")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        world.write(fail_late)

    assert found(world) == []


def test_entries_are_filtered_paged_and_nobody_else_s(world, who, other_project):
    other = Caller("key_b", world.project, frozenset())
    theirs = Caller("key_a", other_project, frozenset())
    for caller, action, object_id in (
        (who, "job.create", "job_1"),
        (who, "job.cancel", "job_1"),
        (other, "job.create", "job_2"),
        (theirs, "job.create", "job_1"),
    ):
        world.write(audit.record, caller, action, object_id)

    assert found(world) == [
        ("key_b", "job.create", "job_2"),
        ("key_a", "job.cancel", "job_1"),
        ("key_a", "job.create", "job_1"),
    ]
    assert found(world, key_id="key_a", action="job.create") == [("key_a", "job.create", "job_1")]
    assert found(world, object_id="job_2") == [("key_b", "job.create", "job_2")]
    first = world.read(audit.list_entries, world.project, limit=2)
    assert found(world, after=first.items[-1].id) == [("key_a", "job.create", "job_1")]
    with pytest.raises(InvalidRequest):
        found(world, after="job_1")


def test_what_is_old_is_forgotten(world, who):
    world.write(audit.record, who, "job.create", "job_1")
    world.write(age, timedelta(days=31))
    world.write(audit.record, who, "job.create", "job_2")

    assert world.write(audit.expire, 30.0) == 1
    assert found(world) == [("key_a", "job.create", "job_2")]


def age(session, by):
    session.execute(update(AuditEntry).values(created_at=utc_now(session) - by))
