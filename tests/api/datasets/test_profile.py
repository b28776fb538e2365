"""The profile of a stored split: counts by class, image sizes, and a seeded choice of images."""

import numpy as np
import pytest

from api.datasets.profile import read_profiles
from core.data.records import BLOB
from core.data.sample_choice import SAMPLES_PER_CLASS
from core.data.stored import RECORD
from core.store.storage_url import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def put_split(store, tmp_path):
    """Store the records of a split; return its files."""

    def put(labels, sizes=(8, 8), name="train"):
        records = np.zeros(len(labels), dtype=RECORD)
        records["label"], records["size"] = labels, 100
        records["width"], records["height"] = np.broadcast_to(np.array(sizes).reshape(-1, 2), (len(labels), 2)).T
        np.save(tmp_path / f"{name}.npy", records)
        return [store.put(f"d/{name}.npy", tmp_path / f"{name}.npy")]

    return put


def test_images_are_counted_by_class(store, put_split):
    files = put_split([1, 0, 1, 2, 1]) + put_split([2, 2], name="test")
    profiles = read_profiles(store, files, "seed")

    assert profiles["train"].counts == {0: 1, 1: 3, 2: 1}
    assert profiles["test"].counts == {2: 2}
    assert (profiles["train"].num_images, profiles["train"].size_bytes) == (5, 500)


def test_an_unlabeled_split_has_one_group(store, put_split):
    assert read_profiles(store, put_split([-1, -1]), "seed")["train"].counts == {-1: 2}


def test_the_choice_of_images_follows_from_the_seed(store, put_split):
    files = put_split([0, 1] * 100)
    chosen = read_profiles(store, files, "a")["train"].samples[1]
    indices = [image.index for image in chosen]

    assert len(set(indices)) == SAMPLES_PER_CLASS
    assert {index % 2 for index in indices} == {1}
    read_profiles.__globals__["_read_profile"].cache_clear()
    assert read_profiles(store, files, "a")["train"].samples[1] == chosen
    assert read_profiles(store, files, "b")["train"].samples[1] != chosen


def test_image_sizes_are_summarized(store, put_split):
    sizes = read_profiles(store, put_split([0, 0, 0, 0], [(32, 40), (33, 64), (64, 20), (200, 129)]), "s")[
        "train"
    ].sizes

    assert (sizes.widths, sizes.heights, sizes.num_distinct) == ((32, 33, 200), (20, 40, 129), 4)
    assert sizes.shorter_sides == {32: 2, 64: 1, 256: 1}


def test_a_dataset_without_files_has_no_profile(store, tmp_path):
    (tmp_path / BLOB).write_bytes(b"x")

    assert read_profiles(store, [store.put(f"d/{BLOB}", tmp_path / BLOB)], "s") == {}
