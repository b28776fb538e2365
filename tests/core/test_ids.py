"""Ids: typed, unique, and sorted by creation time."""

import time
from datetime import UTC, datetime, timedelta

from core.ids import first_id, is_id, new_id


def test_an_id_has_the_prefix_of_its_kind():
    assert is_id(new_id("job"), "job")
    assert not is_id(new_id("job"), "ds")
    assert not is_id("job_nothing", "job")


def test_later_ids_sort_later(monkeypatch):
    ids = []
    for nanoseconds in (1_000_000_000, 2_000_000_000, 10**18):
        monkeypatch.setattr(time, "time_ns", lambda now=nanoseconds: now)
        ids.append(new_id("job"))

    assert ids == sorted(ids)


def test_ids_of_one_millisecond_differ_and_keep_their_order():
    ids = [new_id("evt") for _ in range(1000)]

    assert len(set(ids)) == 1000
    assert ids == sorted(ids)


def test_the_first_id_of_a_time_bounds_the_ids_that_are_made_then():
    now = datetime.now(UTC)

    assert is_id(first_id("job", now), "job")
    assert first_id("job", now - timedelta(milliseconds=1)) < new_id("job") < first_id("job", now + timedelta(days=1))
