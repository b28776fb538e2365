"""Audit log."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from core.errors import InvalidRequest
from core.store import audit
from core.store.db import utc_now
from core.store.keys import Caller
from core.store.project_tables import AuditEntry


@pytest.fixture
def caller(world):
    return Caller("key_a", world.project, frozenset(), request_id="req_1", client_address="203.0.113.7")


def list_entries(world, project=None, **filters):
    page = world.read(audit.list_entries, project or world.project, **filters)
    return [(entry.key_id, entry.action, entry.object_id) for entry in page.items]


def test_entry_has_key_action_object_time_and_client(world, caller):
    world.write(audit.record, caller, "job.cancel", "job_1")
    (entry,) = world.read(audit.list_entries, world.project).items

    assert (entry.key_id, entry.action, entry.object_id, entry.outcome) == ("key_a", "job.cancel", "job_1", "done")
    assert (entry.request_id, entry.client_address) == ("req_1", "203.0.113.7")
    assert abs(entry.created_at - world.read(utc_now)) < timedelta(minutes=1)


def test_rollback_removes_the_entry(world, caller):
    def fail_late(session):
        audit.record(session, caller, "job.cancel", "job_1")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        world.write(fail_late)

    assert list_entries(world) == []


def test_entries_are_filtered_paged_and_private_to_the_project(world, caller, other_project):
    other = Caller("key_b", world.project, frozenset())
    foreign = Caller("key_a", other_project, frozenset())
    for each, action, object_id in (
        (caller, "job.create", "job_1"),
        (caller, "job.cancel", "job_1"),
        (other, "job.create", "job_2"),
        (foreign, "job.create", "job_1"),
    ):
        world.write(audit.record, each, action, object_id)

    assert list_entries(world) == [
        ("key_b", "job.create", "job_2"),
        ("key_a", "job.cancel", "job_1"),
        ("key_a", "job.create", "job_1"),
    ]
    assert list_entries(world, key_id="key_a", action="job.create") == [("key_a", "job.create", "job_1")]
    assert list_entries(world, object_id="job_2") == [("key_b", "job.create", "job_2")]
    first = world.read(audit.list_entries, world.project, limit=2)
    assert list_entries(world, after=first.items[-1].id) == [("key_a", "job.create", "job_1")]
    with pytest.raises(InvalidRequest):
        list_entries(world, after="job_1")


def test_old_entries_are_filtered_and_deleted(world, caller):
    world.write(audit.record, caller, "job.create", "job_1")
    world.write(make_older, timedelta(days=31))
    world.write(audit.record, caller, "job.create", "job_2")
    month_ago = world.read(utc_now) - timedelta(days=30)

    assert list_entries(world, created_after=month_ago) == [("key_a", "job.create", "job_2")]
    assert list_entries(world, created_before=month_ago) == [("key_a", "job.create", "job_1")]
    assert world.write(audit.expire, 30.0) == 1
    assert list_entries(world) == [("key_a", "job.create", "job_2")]


def make_older(session, by):
    session.execute(update(AuditEntry).values(created_at=utc_now(session) - by))
