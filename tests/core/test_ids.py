"""Ids: typed, unique, and sorted by creation time."""

import time

from core.ids import is_id, new_id


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
