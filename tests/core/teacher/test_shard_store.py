import fcntl
import multiprocessing
import os
import shutil

import numpy as np
import pytest
import torch

from core.system import disk_cache
from core.teacher import shard_store as store_module
from core.teacher.shard_store import InMemoryRows, MappedRows, Shard, ShardStore

A, B, C = "a" * 64, "b" * 64, "c" * 64
ROOM = 10_000


def nobody_asks():
    pass


@pytest.fixture
def store(tmp_path):
    return ShardStore(tmp_path / "answers", 1_000_000)


def rows(seed=0, count=5):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float16)


def fill(store, key=A, number=0, seed=0, count=5):
    with store.filling(key, ROOM, nobody_asks) as entry:
        entry.write(number, Shard(rows(seed, count), 1.5))


def read(store, key=A, number=0):
    with store.reading(key, nobody_asks) as entry:
        return entry.read(number)


def shard_file(store, key=A, number=0):
    return store.root / key / f"{number:06d}.shard"


def used(store, key, seconds):
    os.utime(store.root / f"{key}.lock", (seconds, seconds))


def test_a_shard_comes_back_with_its_bits_and_seconds(store):
    fill(store)

    found = read(ShardStore(store.root, 0))  # another run, whatever it may write

    assert found.rows.dtype == np.float16
    assert np.array_equal(found.rows, rows())
    assert found.seconds == 1.5


def test_nothing_is_found_where_nothing_was_written(store):
    fill(store)

    assert read(store, number=1) is None
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
def test_a_damaged_shard_is_not_found_and_can_be_made_again(store, damage):
    fill(store)
    shard_file(store).write_bytes(damage(shard_file(store).read_bytes()))

    assert read(store) is None
    fill(store)
    assert np.array_equal(read(store).rows, rows())


def test_a_shard_in_anothers_place_is_not_found(store):
    fill(store)
    shutil.copyfile(shard_file(store), shard_file(store, number=1))
    (store.root / B).mkdir()
    shutil.copyfile(shard_file(store), shard_file(store, B))

    assert read(store, number=1) is None
    assert read(store, key=B) is None


def test_what_a_killed_run_left_half_written_is_overwritten(store):
    (store.root / A).mkdir(parents=True)
    shard_file(store).with_suffix(".partial").write_bytes(b"half")

    assert read(store) is None
    fill(store)
    assert np.array_equal(read(store).rows, rows())
    assert [path.name for path in (store.root / A).iterdir()] == ["000000.shard"]


# --- room ---------------------------------------------------------------------------------------


def test_the_entry_that_was_used_longest_ago_makes_room(tmp_path):
    store = ShardStore(tmp_path, 2 * ROOM)
    fill(store, A, count=1000)  # about 6 kB each
    fill(store, B, count=1000)
    used(store, A, 2_000)
    used(store, B, 1_000)

    fill(store, C)

    assert store.stopped is None
    assert read(store, B) is None
    assert read(store, A) is not None
    assert read(store, C) is not None
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {A, C}


def test_reading_counts_as_use(tmp_path):
    store = ShardStore(tmp_path, 2 * ROOM)
    fill(store, A, count=1000)
    fill(store, B, count=1000)
    used(store, A, 1_000)
    used(store, B, 2_000)
    read(store, A)

    fill(store, C)

    assert read(store, A) is not None
    assert read(store, B) is None


@pytest.mark.parametrize("how", ["reading", "filling"])
def test_an_entry_in_use_is_never_deleted(tmp_path, how):
    store = ShardStore(tmp_path, ROOM + 5_000)
    fill(store, A, count=1000)
    with (tmp_path / f"{A}.lock").open("ab") as someone:
        fcntl.flock(someone, fcntl.LOCK_SH if how == "reading" else fcntl.LOCK_EX)
        fill(store, B)

    assert store.stopped.startswith("it would need 10,000 bytes, 1,")
    assert store.stopped.endswith("more than its 15,000 leave free")
    assert read(ShardStore(tmp_path, 0), A) is not None


def test_too_small_a_budget_stops_the_store_and_not_its_user(tmp_path):
    store = ShardStore(tmp_path, ROOM - 1)

    fill(store)

    assert store.stopped == "it would need 10,000 bytes, 1 more than its 9,999 leave free"
    assert read(store) is None
    assert [path for path in tmp_path.rglob("*") if path.suffix != ".lock"] == []


def test_a_disk_that_is_full_stops_the_store_and_leaves_nothing_half(store, monkeypatch):
    fill(store)

    def full(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.Path, "replace", full)
    fill(store, number=1)

    assert store.stopped == "the disk is full"
    assert [path.name for path in (store.root / A).iterdir()] == ["000000.shard"]
    assert read(store) is None  # from now on it holds nothing


def test_a_disk_that_is_nearly_full_is_left_alone(store, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=ROOM)
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda path: usage)

    fill(store)

    assert store.stopped == "the disk has no room for 10,000 bytes"
    assert not shard_file(store).exists()


def test_a_folder_that_cannot_be_made_stops_the_store(tmp_path):
    (tmp_path / "answers").write_text("a file")
    store = ShardStore(tmp_path / "answers", ROOM)

    fill(store)

    assert store.stopped.startswith("FileExistsError")
    assert read(store) is None


# --- several processes --------------------------------------------------------------------------


def test_who_waits_for_another_process_is_asked_whether_to_leave(store):
    fill(store)

    def leave():
        raise KeyboardInterrupt

    with (store.root / f"{A}.lock").open("ab") as someone:
        fcntl.flock(someone, fcntl.LOCK_EX)
        with pytest.raises(KeyboardInterrupt), store.reading(A, leave):
            pass


def test_two_may_read_at_once(store):
    fill(store)
    with store.reading(A, nobody_asks) as one, ShardStore(store.root, 0).reading(A, nobody_asks) as other:
        assert np.array_equal(one.read(0).rows, other.read(0).rows)


def test_a_lock_that_was_deleted_with_its_entry_counts_no_more(store):
    fill(store)
    with store.reading(A, nobody_asks):
        (store.root / f"{A}.lock").unlink()  # by a clean-up that knows no locks
        fill(store)  # gets a lock of its own, instead of waiting

    assert read(store) is not None


def _ask(root, number, gate, made):
    store = ShardStore(root, 1_000_000)
    gate.wait()
    with store.filling(A, ROOM, nobody_asks) as entry:
        for shard in range(4):
            if entry.read(shard) is None:
                entry.write(shard, Shard(rows(shard), 0.0))
                made.put((shard, number))
    made.put(None)


def test_processes_that_ask_at_once_do_the_work_once(store):
    context = multiprocessing.get_context("fork")
    gate, made = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_ask, args=(store.root, number, gate, made)) for number in range(3)]
    for worker in workers:
        worker.start()
    told = []
    while told.count(None) < 3:
        told.append(made.get(timeout=60))
    for worker in workers:
        worker.join()

    assert sorted(shard for shard, _ in filter(None, told)) == [0, 1, 2, 3]
    assert len({number for _, number in filter(None, told)}) == 1
    assert all(np.array_equal(read(store, number=shard).rows, rows(shard)) for shard in range(4))


WHOLE = np.random.default_rng(0).standard_normal((25, 6)).astype(np.float16)
SHARDS = [WHOLE[:10], WHOLE[10:20], WHOLE[20:]]


def test_rows_in_memory_and_on_disk_are_those_of_the_samples(tmp_path):
    store = ShardStore(tmp_path, 10**6)
    with store.filling("key", 1_000, lambda: None) as entry:
        for number, rows in enumerate(SHARDS):
            entry.write(number, Shard(rows, 0.5))
        mapped = [entry.read(number, mapped=True).rows for number in range(3)]
    indices = torch.tensor([24, 0, 10, 9, 0, 19])

    assert MappedRows(mapped, 10).rows(indices).numpy().tobytes() == WHOLE[indices.numpy()].tobytes()
    assert InMemoryRows(SHARDS).rows(indices).numpy().tobytes() == WHOLE[indices.numpy()].tobytes()


def test_mapped_rows_outlive_their_entry(tmp_path):
    store = ShardStore(tmp_path, 10**6)
    with store.filling("key", 1_000, lambda: None) as entry:
        entry.write(0, Shard(WHOLE, 0.5))
        rows = entry.read(0, mapped=True).rows
    for file in (tmp_path / "key").iterdir():
        file.unlink()

    assert rows.tobytes() == WHOLE.tobytes()
    assert not rows.flags.writeable
