"""Entries that runs share: who uses one keeps it, and what was used longest ago makes room."""

import os
import shutil
import threading

import pytest

from core.system import disk_cache
from core.system.disk_cache import DiskCache


def nobody_asks():
    pass


def fill(folder, key, num_bytes=100):
    with folder.to_fill(key, num_bytes, nobody_asks) as path:
        path.mkdir(parents=True, exist_ok=True)
        (path / "content").write_bytes(bytes(num_bytes))


def keys(folder):
    return {path.name for path in folder.root.iterdir() if path.is_dir()}


def test_what_is_kept_is_not_deleted_until_it_is_let_go(tmp_path):
    folder = DiskCache(tmp_path, 150)
    fill(folder, "a")
    lock = folder.kept("a", nobody_asks)

    DiskCache(tmp_path, 150).make_room(100)
    assert keys(folder) == {"a"}
    lock.close()
    DiskCache(tmp_path, 150).make_room(100)
    assert keys(folder) == set()


def test_several_may_keep_one(tmp_path):
    folder = DiskCache(tmp_path, 150)

    with folder.kept("a", nobody_asks), folder.kept("a", nobody_asks), folder.to_read("a", nobody_asks) as path:
        assert path == tmp_path / "a"


def test_keeping_counts_as_use(tmp_path):
    folder = DiskCache(tmp_path, 250)
    for key, used_at in (("a", 1_000), ("b", 2_000)):
        fill(folder, key)
        os.utime(tmp_path / f"{key}.lock", (used_at, used_at))
    folder.kept("a", nobody_asks).close()

    folder.make_room(100)

    assert keys(folder) == {"a"}


def test_a_folder_without_room_stops_and_holds_nothing(tmp_path):
    folder = DiskCache(tmp_path, 50)
    folder.make_room(60)

    assert "10 more than its 50" in folder.stopped
    assert folder.kept("a", nobody_asks) is None
    with folder.to_read("a", nobody_asks) as reading, folder.to_fill("a", 1, nobody_asks) as filling:
        assert (reading, filling) == (None, None)


def test_what_can_never_fit_costs_the_others_nothing(tmp_path):
    folder = DiskCache(tmp_path, 250)
    fill(folder, "a")
    folder.make_room(251)

    assert "101 more than its 250" in folder.stopped
    assert keys(folder) == {"a"}


def test_a_disk_that_runs_full_gets_room_from_what_was_used_longest_ago(tmp_path, monkeypatch):
    folder = DiskCache(tmp_path, 1_000)
    for key, used_at in (("a", 1_000), ("b", 2_000)):
        fill(folder, key)
        os.utime(tmp_path / f"{key}.lock", (used_at, used_at))
    plenty = shutil.disk_usage("/")._replace(free=2**40)
    monkeypatch.setattr(
        disk_cache.shutil, "disk_usage", lambda _: plenty._replace(free=0) if "a" in keys(folder) else plenty
    )

    folder.make_room(100)

    assert (keys(folder), folder.stopped) == ({"b"}, None)


def test_a_folder_that_cannot_be_made_stops(tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = DiskCache(tmp_path / "file", 50)

    assert folder.kept("a", nobody_asks) is None
    assert folder.stopped


def test_whoever_waits_may_be_called_away(tmp_path):
    folder = DiskCache(tmp_path, 1_000)
    filling, done = threading.Event(), threading.Event()

    def fill_slowly():
        with DiskCache(tmp_path, 1_000).to_fill("a", 1, nobody_asks):
            filling.set()
            done.wait(30)

    def leave():
        raise KeyboardInterrupt

    other = threading.Thread(target=fill_slowly)
    other.start()
    filling.wait(30)
    try:
        with pytest.raises(KeyboardInterrupt):
            folder.kept("a", leave)
    finally:
        done.set()
        other.join()
