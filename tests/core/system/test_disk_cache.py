"""A shared cache folder: pinned entries stay, and the least recently used entry is evicted first."""

import fcntl
import os
import shutil

import pytest

from core.system import disk_cache
from core.system.disk_cache import DiskCache, claim_lock


def no_poll():
    pass


def fill(cache, key, num_bytes=100):
    with cache.pin(key, no_poll):
        cache.reserve(num_bytes)
        path = cache.root / key
        path.mkdir(parents=True, exist_ok=True)
        (path / "content").write_bytes(bytes(num_bytes))


def keys(cache):
    return {path.name for path in cache.root.iterdir() if path.is_dir()}


def test_a_pinned_entry_is_not_evicted_until_it_is_released(tmp_path):
    cache = DiskCache(tmp_path, 150)
    fill(cache, "a")
    lock = cache.pin("a", no_poll)

    DiskCache(tmp_path, 150).reserve(100)
    assert keys(cache) == {"a"}
    lock.close()
    DiskCache(tmp_path, 150).reserve(100)
    assert keys(cache) == set()


def test_an_entry_can_be_pinned_more_than_once(tmp_path):
    cache = DiskCache(tmp_path, 150)

    with cache.pin("a", no_poll), cache.pin("a", no_poll):
        assert not cache.evict("a")
    assert cache.evict("a")


def test_pinning_counts_as_use(tmp_path):
    cache = DiskCache(tmp_path, 250)
    for key, last_used in (("a", 1_000), ("b", 2_000)):
        fill(cache, key)
        os.utime(tmp_path / f"{key}.lock", (last_used, last_used))
    cache.pin("a", no_poll).close()

    cache.reserve(100)

    assert keys(cache) == {"a"}


def test_a_cache_without_space_is_disabled_and_empty(tmp_path):
    cache = DiskCache(tmp_path, 50)
    cache.reserve(60)

    assert "10 bytes more than the limit of 50" in cache.disabled_reason
    assert cache.pin("a", no_poll) is None


def test_an_entry_that_never_fits_evicts_nothing(tmp_path):
    cache = DiskCache(tmp_path, 250)
    fill(cache, "a")
    cache.reserve(251)

    assert "101 bytes more than the limit of 250" in cache.disabled_reason
    assert keys(cache) == {"a"}


def test_a_nearly_full_disk_evicts_the_least_recently_used_entry(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path, 1_000)
    for key, last_used in (("a", 1_000), ("b", 2_000)):
        fill(cache, key)
        os.utime(tmp_path / f"{key}.lock", (last_used, last_used))
    usage = shutil.disk_usage("/")._replace(free=2**40)
    monkeypatch.setattr(
        disk_cache.shutil, "disk_usage", lambda _: usage._replace(free=0) if "a" in keys(cache) else usage
    )

    cache.reserve(100)

    assert (keys(cache), cache.disabled_reason) == ({"b"}, None)


def test_a_folder_that_cannot_be_created_disables_the_cache(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = DiskCache(tmp_path / "file", 50)

    assert cache.pin("a", no_poll) is None
    assert cache.disabled_reason


def test_waiting_for_an_eviction_can_be_interrupted(tmp_path):
    cache = DiskCache(tmp_path, 1_000)

    def interrupt():
        raise KeyboardInterrupt

    with cache.pin("a", no_poll), (tmp_path / "b.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(KeyboardInterrupt):
            cache.pin("b", interrupt)


def test_one_process_at_a_time_holds_a_claim(tmp_path):
    path = tmp_path / "claim"
    with claim_lock(path) as first, claim_lock(path) as second:
        assert (first, second) == (True, False)
        assert path.exists()
    with claim_lock(path) as third:
        assert third
    assert not path.exists()
