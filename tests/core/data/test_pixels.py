import gc
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.pixels import Pixels, load_pixels, square
from core.data.stored import StoredDataset
from core.system.disk_cache import DiskCache


@pytest.fixture
def stored(ingest, zipped, tree, tmp_path):
    ingest(zipped(tree()))
    with StoredDataset.open(tmp_path / "stored") as opened:
        yield opened


def test_pictures_of_the_wanted_size_keep_their_pixels(stored, tmp_path):
    pixels = load_pixels(stored, "train", 8, tmp_path / "cache")

    assert pixels.images.shape == (10, 3, 8, 8)
    assert pixels.images.dtype == np.uint8
    expected = np.asarray(stored.split("train").read(4)).transpose(2, 0, 1)
    assert np.array_equal(pixels.images[4], expected)
    assert pixels.labels.tolist() == [0] * 5 + [1] * 5
    assert pixels.labels.dtype == torch.int64


def test_a_batch_is_a_copy_in_the_order_that_was_asked_for(stored, tmp_path):
    pixels = load_pixels(stored, "train", 8, tmp_path / "cache")

    batch = pixels.batch(torch.tensor([7, 2, 7]))

    assert batch.shape == (3, 3, 8, 8)
    assert torch.equal(batch[0], batch[2])
    assert np.array_equal(batch[1].numpy(), pixels.images[2])
    batch.zero_()  # does not reach the mapped file


def test_greyscale_has_one_channel(ingest, zipped, encoded, tmp_path):
    ingest(zipped({f"{c}/{i}.png": encoded(seed=i, mode="L") for c in "ab" for i in range(5)}), "grey")

    with StoredDataset.open(tmp_path / "grey") as stored:
        assert load_pixels(stored, "test", 6, tmp_path / "cache").images.shape == (2, 1, 6, 6)


def test_the_second_time_nothing_is_decoded(stored, tmp_path):
    first = load_pixels(stored, "train", 5, tmp_path / "cache")
    calls = []

    again = load_pixels(stored, "train", 5, tmp_path / "cache", progress=lambda *done: calls.append(done))

    assert calls == []
    assert np.array_equal(first.images, again.images)


def test_the_number_of_threads_changes_nothing(stored, tmp_path):
    one = load_pixels(stored, "train", 5, tmp_path / "one", threads=1)
    four = load_pixels(stored, "train", 5, tmp_path / "four", threads=4)

    assert np.array_equal(one.images, four.images)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00v\x00{broken", b"x" * 500])
def test_a_damaged_cache_is_made_again(stored, tmp_path, damage):
    good = np.array(load_pixels(stored, "train", 5, tmp_path / "cache").images)
    (path,) = (tmp_path / "cache" / "pixels").glob("*/images.npy")
    path.write_bytes(damage)

    assert np.array_equal(load_pixels(stored, "train", 5, tmp_path / "cache").images, good)


def test_a_cache_that_was_cut_off_is_made_again(stored, tmp_path):
    good = np.array(load_pixels(stored, "train", 5, tmp_path / "cache").images)
    (path,) = (tmp_path / "cache" / "pixels").glob("*/images.npy")
    path.write_bytes(path.read_bytes()[:-10])

    assert np.array_equal(load_pixels(stored, "train", 5, tmp_path / "cache").images, good)


def test_work_that_is_ended_leaves_no_half_array(stored, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt((done, total))

    with pytest.raises(KeyboardInterrupt):
        load_pixels(stored, "train", 5, tmp_path / "cache", progress=stop)

    files = [path for path in (tmp_path / "cache" / "pixels").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".lock"}
    assert len(load_pixels(stored, "train", 5, tmp_path / "cache")) == 10


def _load(folder, cache, queue):
    calls = []
    with StoredDataset.open(Path(folder)) as stored:
        pixels = load_pixels(stored, "train", 7, Path(cache), progress=lambda *done: calls.append(done))
        queue.put((sum(done > 0 for done, _ in calls), int(pixels.images.sum())))


def test_processes_that_ask_at_once_do_the_work_once(stored, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_load, args=(stored.folder, tmp_path / "cache", queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    answers = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()

    assert sorted(calls for calls, _ in answers) == [0, 0, 1]
    assert len({total for _, total in answers}) == 1


@pytest.mark.parametrize("size", [(30, 10), (10, 30), (10, 10)])
def test_the_square_at_the_centre_is_taken(size):
    picture = Image.new("L", size, 0)
    left, top = (size[0] - 10) // 2, (size[1] - 10) // 2
    picture.paste(200, (left, top, left + 10, top + 10))

    assert set(square(picture, 10).tobytes()) == {200}


def test_shrinking_is_antialiased():
    stripes = Image.fromarray(np.tile(np.array([0, 255], dtype=np.uint8), (64, 32)))

    small = np.asarray(square(stripes, 8)).astype(int)

    assert abs(small[2:-2, 2:-2] - 127).max() < 8


def test_some_pictures_without_labels_are_the_same_pictures():
    whole = Pixels(np.arange(5 * 4, dtype=np.uint8).reshape(5, 1, 2, 2), torch.arange(5))

    some = whole.unlabelled(np.array([1, 4]))

    assert len(some) == 2
    assert some.labels.tolist() == [-1, -1]
    assert torch.equal(some.batch(torch.tensor([1, 0])), whole.batch(torch.tensor([4, 1])))


# --- room ---------------------------------------------------------------------------------------

BYTES = 10 * 3 * 5 * 5  # of the training split at 5 pixels


def entries(cache):
    return {path.name.split("-", 1)[1] for path in (cache / "pixels").iterdir() if path.is_dir()}


def test_what_does_not_fit_is_decoded_on_demand_with_the_same_bits(stored, tmp_path):
    kept = load_pixels(stored, "train", 5, tmp_path / "cache")

    loose = load_pixels(stored, "train", 5, tmp_path / "other", max_bytes=BYTES - 1, threads=3)

    assert loose.on_demand
    assert not kept.on_demand
    assert not (tmp_path / "other").exists()
    assert loose.images.shape == kept.images.shape
    assert loose.labels.equal(kept.labels)
    wanted = torch.tensor([7, 2, 7])
    assert loose.batch(wanted).equal(kept.batch(wanted))
    assert np.array_equal(np.array(loose.images), kept.images)


def test_pictures_used_longest_ago_make_room(stored, tmp_path):
    for size in (5, 6):
        load_pixels(stored, "train", size, tmp_path, max_bytes=10_000)
    for size, used_at in ((5, 2_000), (6, 1_000)):
        (lock,) = (tmp_path / "pixels").glob(f"*-{size}-train.lock")
        os.utime(lock, (used_at, used_at))

    load_pixels(stored, "train", 7, tmp_path, max_bytes=10 * 3 * (5 * 5 + 7 * 7) + 1_000)

    assert entries(tmp_path) == {"5-train", "7-train"}


def test_pictures_in_use_are_kept_and_others_decoded_on_demand(stored, tmp_path):
    used = load_pixels(stored, "train", 5, tmp_path, max_bytes=BYTES + 1_000)

    other = load_pixels(stored, "train", 6, tmp_path, max_bytes=BYTES + 1_000)

    assert other.on_demand
    assert entries(tmp_path) >= {"5-train"}
    view = used.images[::2]
    del used
    gc.collect()
    assert load_pixels(stored, "train", 6, tmp_path, max_bytes=BYTES + 1_000).on_demand  # a part is in use as well
    del view
    gc.collect()
    assert not load_pixels(stored, "train", 6, tmp_path, max_bytes=BYTES + 1_000).on_demand


def test_a_disk_that_refuses_is_done_without(stored, tmp_path):
    (tmp_path / "cache").write_text("in the way")

    assert load_pixels(stored, "train", 5, tmp_path / "cache").on_demand


def test_an_array_that_was_deleted_while_it_is_used_is_made_again_beside_it(stored, tmp_path):
    first = load_pixels(stored, "train", 5, tmp_path)
    (path,) = (tmp_path / "pixels").glob("*/images.npy")
    path.unlink()

    again = load_pixels(stored, "train", 5, tmp_path)

    assert np.array_equal(first.images, again.images)


@pytest.fixture
def small_disk(make_disk):
    """A disk of 64 KiB."""
    return make_disk("64k")


def test_a_disk_that_another_one_fills_meanwhile_ends_no_process(stored, small_disk, monkeypatch):
    """There was room when it was looked at. A write to a mapped file that finds none would be a SIGBUS."""
    monkeypatch.setattr(DiskCache, "make_room", lambda *_: None)
    process = multiprocessing.get_context("fork").Process(
        target=lambda: os._exit(0 if load_pixels(stored, "train", 64, small_disk / "cache").on_demand else 1)
    )
    process.start()
    process.join(30)

    assert process.exitcode == 0
    assert [path.name for path in (small_disk / "cache").rglob("*.partial")] == []
