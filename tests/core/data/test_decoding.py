"""Images decoded on demand are indexed like an array, and can be prefetched."""

import numpy as np
import pytest

from core.data import decoding
from core.data.decoding import decode_image, decode_on_demand
from core.data.stored import BLOB, StoredDataset
from core.errors import StorageFailed


@pytest.fixture
def folder(ingest, zipped, tree, tmp_path):
    ingest(zipped(tree()))
    return tmp_path / "stored"


@pytest.fixture
def expected(folder):
    with StoredDataset.open(folder) as stored:
        return np.stack([decode_image(stored.split("train"), index, 6) for index in range(10)])


@pytest.fixture
def images(folder):
    return decode_on_demand(folder, "train", 6, threads=2)


@pytest.fixture
def submitted(monkeypatch):
    """The indices that were submitted for decoding, in order."""
    indices = []
    submit = decoding.Decoder._submit

    def record(self, index):
        indices.append(index)
        return submit(self, index)

    monkeypatch.setattr(decoding.Decoder, "_submit", record)
    return indices


def test_images_are_indexed_like_an_array(images, expected):
    assert images.shape == expected.shape
    assert images.dtype == expected.dtype
    assert len(images) == 10
    assert np.array_equal(images[3], expected[3])
    assert np.array_equal(images[np.array([4, 1, 4])], expected[[4, 1, 4]])
    assert np.array_equal(np.array(images), expected)
    assert np.array_equal(np.array(images[1::3][1:]), expected[1::3][1:])
    assert np.asarray(images, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="new array"):
        np.asarray(images, copy=False)


def test_a_slice_decodes_nothing(images, submitted):
    assert images[2:8].shape == (6, 3, 6, 6)
    assert submitted == []


def test_prefetched_images_are_decoded_once(images, expected, submitted):
    images.prefetch([np.array([1, 2]), np.array([5, 1])])

    assert submitted == [1, 2, 5]
    assert np.array_equal(images[np.array([2, 5])], expected[[2, 5]])
    assert submitted == [1, 2, 5]


def test_images_outside_the_latest_prefetch_are_cancelled(images, expected, submitted):
    images.prefetch([np.array([1, 2])])
    images.prefetch([np.array([2, 3])])

    assert submitted == [1, 2, 3]
    assert np.array_equal(images[np.array([1])], expected[[1]])
    assert submitted == [1, 2, 3, 1]


def test_a_slice_prefetches_by_its_own_indices(images, submitted):
    images[::2].prefetch([np.array([1, 3])])

    assert submitted == [2, 6]


def test_a_damaged_image_raises_on_access(folder):
    blob = folder / BLOB
    blob.write_bytes(bytes(blob.stat().st_size))
    images = decode_on_demand(folder, "train", 6, threads=2)
    images.prefetch([np.array([0])])

    with pytest.raises(StorageFailed, match="damaged"):
        images[0]
