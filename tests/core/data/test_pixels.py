import gc
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.pixels import Pixels, center_square, load_pixels
from core.data.stored import StoredDataset
from core.system.disk_cache import DiskCache


@pytest.fixture
def stored(ingest, zipped, tree, tmp_path):
    ingest(zipped(tree()))
    with StoredDataset.open(tmp_path / "stored") as opened:
        yield opened


def test_images_of_the_requested_size_keep_their_pixels(stored, tmp_path):
    pixels = load_pixels(stored, "train", 8, tmp_path / "cache")

    assert pixels.images.shape == (10, 3, 8, 8)
    assert pixels.images.dtype == np.uint8
    expected = np.asarray(stored.split("train").read(4)).transpose(2, 0, 1)
    assert np.array_equal(pixels.images[4], expected)
    assert pixels.labels.tolist() == [0] * 5 + [1] * 5
    assert pixels.labels.dtype == torch.int64


def test_a_batch_is_a_copy_in_the_requested_order(stored, tmp_path):
    pixels = load_pixels(stored, "train", 8, tmp_path / "cache")

    batch = pixels.batch(torch.tensor([7, 2, 7]))

    assert batch.shape == (3, 3, 8, 8)
    assert torch.equal(batch[0], batch[2])
    assert np.array_equal(batch[1].numpy(), pixels.images[2])
    batch.zero_()  # does not change the mapped file


def test_grayscale_has_one_channel(ingest, zipped, encoded, tmp_path):
    ingest(zipped({f"{c}/{i}.png": encoded(seed=i, mode="L") for c in "ab" for i in range(5)}), "gray")

    with StoredDataset.open(tmp_path / "gray") as stored:
        assert load_pixels(stored, "test", 6, tmp_path / "cache").images.shape == (2, 1, 6, 6)


def test_a_second_load_decodes_nothing(stored, tmp_path):
    first = load_pixels(stored, "train", 5, tmp_path / "cache")
    calls = []

    again = load_pixels(stored, "train", 5, tmp_path / "cache", progress=lambda *done: calls.append(done))

    assert calls == []
    assert np.array_equal(first.images, again.images)


def test_the_number_of_threads_does_not_change_the_pixels(stored, tmp_path):
    single = load_pixels(stored, "train", 5, tmp_path / "one", threads=1)
    several = load_pixels(stored, "train", 5, tmp_path / "four", threads=4)

    assert np.array_equal(single.images, several.images)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00v\x00{broken", b"x" * 500])
def test_a_damaged_cache_file_is_decoded_again(stored, tmp_path, damage):
    expected = np.array(load_pixels(stored, "train", 5, tmp_path / "cache").images)
    (path,) = (tmp_path / "cache" / "pixels").glob("*/images.npy")
    path.write_bytes(damage)

    assert np.array_equal(load_pixels(stored, "train", 5, tmp_path / "cache").images, expected)


def test_a_truncated_cache_file_is_decoded_again(stored, tmp_path):
    expected = np.array(load_pixels(stored, "train", 5, tmp_path / "cache").images)
    (path,) = (tmp_path / "cache" / "pixels").glob("*/images.npy")
    path.write_bytes(path.read_bytes()[:-10])

    assert np.array_equal(load_pixels(stored, "train", 5, tmp_path / "cache").images, expected)


def test_an_interruption_leaves_no_partial_array(stored, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt((done, total))

    with pytest.raises(KeyboardInterrupt):
        load_pixels(stored, "train", 5, tmp_path / "cache", progress=interrupt)

    files = [path for path in (tmp_path / "cache" / "pixels").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".lock"}
    assert len(load_pixels(stored, "train", 5, tmp_path / "cache")) == 10


def _load(folder, cache, queue):
    calls = []
    with StoredDataset.open(Path(folder)) as stored:
        pixels = load_pixels(stored, "train", 7, Path(cache), progress=lambda *done: calls.append(done))
        queue.put((sum(done > 0 for done, _ in calls), int(pixels.images.sum())))


def test_concurrent_processes_decode_once(stored, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_load, args=(stored.folder, tmp_path / "cache", queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()

    assert sorted(calls for calls, _ in results) == [0, 0, 1]
    assert len({total for _, total in results}) == 1


@pytest.mark.parametrize("size", [(30, 10), (10, 30), (10, 10)])
def test_the_center_square_is_cropped(size):
    image = Image.new("L", size, 0)
    left, top = (size[0] - 10) // 2, (size[1] - 10) // 2
    image.paste(200, (left, top, left + 10, top + 10))

    assert set(center_square(image, 10).tobytes()) == {200}


def test_shrinking_is_antialiased():
    stripes = Image.fromarray(np.tile(np.array([0, 255], dtype=np.uint8), (64, 32)))

    small = np.asarray(center_square(stripes, 8)).astype(int)

    assert abs(small[2:-2, 2:-2] - 127).max() < 8


def test_an_unlabeled_subset_has_the_same_images():
    full = Pixels(np.arange(5 * 4, dtype=np.uint8).reshape(5, 1, 2, 2), torch.arange(5))

    subset = full.unlabeled_subset(np.array([1, 4]))

    assert len(subset) == 2
    assert subset.labels.tolist() == [-1, -1]
    assert torch.equal(subset.batch(torch.tensor([1, 0])), full.batch(torch.tensor([4, 1])))


# --- cache limits -------------------------------------------------------------------------------

BYTES = 10 * 3 * 5 * 5  # of the training split at 5 pixels


def entries(cache):
    return {path.name.split("-", 1)[1] for path in (cache / "pixels").iterdir() if path.is_dir()}


def test_a_split_larger_than_the_cache_is_decoded_on_demand_with_the_same_bits(stored, tmp_path):
    mapped = load_pixels(stored, "train", 5, tmp_path / "cache")

    on_demand = load_pixels(stored, "train", 5, tmp_path / "other", max_bytes=BYTES - 1, threads=3)

    assert on_demand.is_decoded_on_demand
    assert not mapped.is_decoded_on_demand
    assert not (tmp_path / "other").exists()
    assert on_demand.images.shape == mapped.images.shape
    assert on_demand.labels.equal(mapped.labels)
    indices = torch.tensor([7, 2, 7])
    assert on_demand.batch(indices).equal(mapped.batch(indices))
    assert np.array_equal(np.array(on_demand.images), mapped.images)


def test_least_recently_used_images_are_evicted(stored, tmp_path):
    for size in (5, 6):
        load_pixels(stored, "train", size, tmp_path, max_bytes=10_000)
    for size, last_used in ((5, 2_000), (6, 1_000)):
        (lock,) = (tmp_path / "pixels").glob(f"*-{size}-train.lock")
        os.utime(lock, (last_used, last_used))

    load_pixels(stored, "train", 7, tmp_path, max_bytes=10 * 3 * (5 * 5 + 7 * 7) + 1_000)

    assert entries(tmp_path) == {"5-train", "7-train"}


def test_images_in_use_are_not_evicted_and_others_are_decoded_on_demand(stored, tmp_path):
    used = load_pixels(stored, "train", 5, tmp_path, max_bytes=BYTES + 1_000)

    other = load_pixels(stored, "train", 6, tmp_path, max_bytes=BYTES + 1_000)

    assert other.is_decoded_on_demand
    assert entries(tmp_path) >= {"5-train"}
    view = used.images[::2]
    del used
    gc.collect()
    assert load_pixels(
        stored, "train", 6, tmp_path, max_bytes=BYTES + 1_000
    ).is_decoded_on_demand  # a slice is a use too
    del view
    gc.collect()
    assert not load_pixels(stored, "train", 6, tmp_path, max_bytes=BYTES + 1_000).is_decoded_on_demand


def test_a_disk_error_falls_back_to_decoding_on_demand(stored, tmp_path):
    (tmp_path / "cache").write_text("in the way")

    assert load_pixels(stored, "train", 5, tmp_path / "cache").is_decoded_on_demand


def test_an_array_deleted_while_in_use_is_decoded_again(stored, tmp_path):
    first = load_pixels(stored, "train", 5, tmp_path)
    (path,) = (tmp_path / "pixels").glob("*/images.npy")
    path.unlink()

    again = load_pixels(stored, "train", 5, tmp_path)

    assert np.array_equal(first.images, again.images)


@pytest.fixture
def small_disk(make_disk):
    """A disk of 64 KiB."""
    return make_disk("64k")


def test_a_disk_that_fills_up_while_decoding_kills_no_process(stored, small_disk, monkeypatch):
    """The free space was checked before. A write to a mapped page without disk space would be a SIGBUS."""
    monkeypatch.setattr(DiskCache, "reserve", lambda *_: None)
    process = multiprocessing.get_context("fork").Process(
        target=lambda: os._exit(0 if load_pixels(stored, "train", 64, small_disk / "cache").is_decoded_on_demand else 1)
    )
    process.start()
    process.join(30)

    assert process.exitcode == 0
    assert [path.name for path in (small_disk / "cache").rglob("*.part")] == []
