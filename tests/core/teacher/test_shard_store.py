import fcntl
import multiprocessing
import os
import shutil

import numpy as np
import pytest
import torch

from core.system import disk_cache
from core.teacher import shard_store
from core.teacher.shard_store import InMemoryRows, MappedRows, Shard, ShardStore

A, B, C = "a" * 64, "b" * 64, "c" * 64
NUM_BYTES = 10_000


def no_poll():
    pass


@pytest.fixture
def store(tmp_path):
    return ShardStore(tmp_path / "teacher_outputs", 1_000_000)


def rows(seed=0, count=5):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float16)


def fill(store, key=A, index=0, seed=0, count=5):
    with store.open_entry(key, no_poll) as entry:
        entry.reserve(NUM_BYTES)
        with entry.claim(index):
            entry.write(index, Shard(rows(seed, count), 1.5))


def read(store, key=A, index=0):
    with store.open_entry(key, no_poll) as entry:
        return entry.read(index)


def shard_file(store, key=A, index=0):
    return store.root / key / f"{index:06d}.shard"


def set_last_used(store, key, seconds):
    os.utime(store.root / f"{key}.lock", (seconds, seconds))


def test_a_shard_keeps_its_bits_and_seconds(store):
    fill(store)

    loaded = read(ShardStore(store.root, 0))  # another run; its size limit does not matter

    assert loaded.rows.dtype == np.float16
    assert np.array_equal(loaded.rows, rows())
    assert loaded.seconds == 1.5


def test_a_missing_shard_is_a_miss(store):
    fill(store)

    assert read(store, index=1) is None
    assert read(store, key=B) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: content + b"\0",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes([content[0] ^ 1]) + content[1:],
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
    ],
)
def test_a_damaged_shard_is_a_miss_and_can_be_written_again(store, damage):
    fill(store)
    shard_file(store).write_bytes(damage(shard_file(store).read_bytes()))

    assert read(store) is None
    fill(store)
    assert np.array_equal(read(store).rows, rows())


def test_a_misplaced_shard_is_a_miss(store):
    fill(store)
    shutil.copyfile(shard_file(store), shard_file(store, index=1))
    (store.root / B).mkdir()
    shutil.copyfile(shard_file(store), shard_file(store, B))

    assert read(store, index=1) is None
    assert read(store, key=B) is None


def test_the_temporary_file_of_a_killed_run_is_overwritten(store):
    (store.root / A).mkdir(parents=True)
    (store.root / A / ".000000.shard.part").write_bytes(b"half")

    assert read(store) is None
    fill(store)
    assert np.array_equal(read(store).rows, rows())
    assert [path.name for path in (store.root / A).iterdir()] == ["000000.shard"]


# --- eviction and disk errors -------------------------------------------------------------------


def test_the_least_recently_used_entry_is_evicted(tmp_path):
    store = ShardStore(tmp_path, 2 * NUM_BYTES)
    fill(store, A, count=1000)  # about 6 kB each
    fill(store, B, count=1000)
    set_last_used(store, A, 2_000)
    set_last_used(store, B, 1_000)

    fill(store, C)

    assert store.disabled_reason is None
    assert read(store, B) is None
    assert read(store, A) is not None
    assert read(store, C) is not None
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {A, C}


def test_reading_counts_as_use(tmp_path):
    store = ShardStore(tmp_path, 2 * NUM_BYTES)
    fill(store, A, count=1000)
    fill(store, B, count=1000)
    set_last_used(store, A, 1_000)
    set_last_used(store, B, 2_000)
    read(store, A)

    fill(store, C)

    assert read(store, A) is not None
    assert read(store, B) is None


@pytest.mark.parametrize("lock", ["read", "write"])
def test_a_locked_entry_is_never_evicted(tmp_path, lock):
    store = ShardStore(tmp_path, NUM_BYTES + 5_000)
    fill(store, A, count=1000)
    with (tmp_path / f"{A}.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_SH if lock == "read" else fcntl.LOCK_EX)
        fill(store, B)

    assert store.disabled_reason.startswith("it needs 10,000 bytes, 1,")
    assert store.disabled_reason.endswith("bytes more than the limit of 15,000 allows")
    assert read(ShardStore(tmp_path, 0), A) is not None


def test_an_entry_larger_than_the_limit_disables_the_store(tmp_path):
    store = ShardStore(tmp_path, NUM_BYTES - 1)

    fill(store)

    assert store.disabled_reason == "it needs 10,000 bytes, 1 bytes more than the limit of 9,999 allows"
    assert read(store) is None
    assert [path for path in tmp_path.rglob("*") if path.suffix != ".lock"] == []


def test_a_full_disk_disables_the_store_and_leaves_no_partial_file(store, monkeypatch):
    fill(store)

    def full(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_store.Path, "replace", full)
    fill(store, index=1)

    assert store.disabled_reason == "the disk is full"
    assert [path.name for path in (store.root / A).iterdir()] == ["000000.shard"]
    assert read(store) is None  # a disabled store has no entries


def test_the_store_leaves_free_space_on_the_disk(store, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=NUM_BYTES)
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda path: usage)

    fill(store)

    assert store.disabled_reason == "the disk has no room for 10,000 bytes"
    assert not shard_file(store).exists()


def test_a_folder_that_cannot_be_created_disables_the_store(tmp_path):
    (tmp_path / "teacher_outputs").write_text("a file")
    store = ShardStore(tmp_path / "teacher_outputs", NUM_BYTES)

    fill(store)

    assert store.disabled_reason.startswith("FileExistsError")
    assert read(store) is None


# --- several processes --------------------------------------------------------------------------


def test_two_processes_use_an_entry_at_once(store):
    fill(store)
    with store.open_entry(A, no_poll) as one, ShardStore(store.root, 0).open_entry(A, no_poll) as other:
        assert np.array_equal(one.read(0).rows, other.read(0).rows)


def test_one_process_at_a_time_claims_a_shard(store):
    other = ShardStore(store.root, 1_000_000)
    with store.open_entry(A, no_poll) as entry, other.open_entry(A, no_poll) as waiting:
        with entry.claim(0) as first, waiting.claim(0) as second, waiting.claim(1) as third:
            assert (first, second, third) == (True, False, True)
            assert store.num_unclaimed(A, 3) == 1
            entry.write(0, Shard(rows(), 1.5))
        assert waiting.missing(3) == [1, 2]
        assert store.num_unclaimed(A, 3) == 2


def test_a_disabled_store_claims_everything(store):
    store.disable("the disk is full")
    with store.open_entry(A, no_poll) as entry, entry.claim(0) as first, entry.claim(0) as second:
        assert (first, second, entry.missing(2)) == (True, True, [0, 1])


def test_a_deleted_lock_file_locks_nothing(store):
    fill(store)
    with (store.root / f"{A}.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        (store.root / f"{A}.lock").unlink()  # by a clean-up that ignores locks
        fill(store)  # creates a new lock file instead of waiting

    assert read(store) is not None


def _write_shards(root, worker, barrier, written):
    store = ShardStore(root, 1_000_000)
    barrier.wait()
    with store.open_entry(A, no_poll) as entry:
        while missing := entry.missing(4):
            with entry.claim(missing[0]) as is_claimed:
                if is_claimed and entry.read(missing[0]) is None:
                    entry.write(missing[0], Shard(rows(missing[0]), 0.0))
                    written.put((missing[0], worker))
    written.put(None)


def test_concurrent_processes_write_each_shard_once(store):
    context = multiprocessing.get_context("fork")
    barrier, written = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=_write_shards, args=(store.root, worker, barrier, written)) for worker in range(3)
    ]
    for worker in workers:
        worker.start()
    reports = []
    while reports.count(None) < 3:
        reports.append(written.get(timeout=60))
    for worker in workers:
        worker.join()

    assert sorted(shard for shard, _ in filter(None, reports)) == [0, 1, 2, 3]
    assert all(np.array_equal(read(store, index=shard).rows, rows(shard)) for shard in range(4))


ROWS = np.random.default_rng(0).standard_normal((25, 6)).astype(np.float16)
SHARDS = [ROWS[:10], ROWS[10:20], ROWS[20:]]


def test_rows_in_memory_and_on_disk_are_indexed_by_sample(tmp_path):
    store = ShardStore(tmp_path, 10**6)
    with store.open_entry("key", no_poll) as entry, entry.claim(0):
        for index, rows in enumerate(SHARDS):
            entry.write(index, Shard(rows, 0.5))
        mapped = [entry.read(index, mapped=True).rows for index in range(3)]
    indices = torch.tensor([24, 0, 10, 9, 0, 19])

    assert MappedRows(mapped, 10).rows(indices).numpy().tobytes() == ROWS[indices.numpy()].tobytes()
    assert InMemoryRows(SHARDS).rows(indices).numpy().tobytes() == ROWS[indices.numpy()].tobytes()


def test_mapped_rows_outlive_their_entry(tmp_path):
    store = ShardStore(tmp_path, 10**6)
    with store.open_entry("key", no_poll) as entry, entry.claim(0):
        entry.write(0, Shard(ROWS, 0.5))
        rows = entry.read(0, mapped=True).rows
    for file in (tmp_path / "key").iterdir():
        file.unlink()

    assert rows.tobytes() == ROWS.tobytes()
    assert not rows.flags.writeable
