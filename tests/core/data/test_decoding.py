"""Pictures that are decoded on demand are indexed like an array, and may be on their way before."""

import numpy as np
import pytest

from core.data import decoding
from core.data.decoding import decode_on_demand, decoded
from core.data.stored import BLOB, StoredDataset
from core.errors import StorageFailed


@pytest.fixture
def folder(ingest, zipped, tree, tmp_path):
    ingest(zipped(tree()))
    return tmp_path / "stored"


@pytest.fixture
def whole(folder):
    with StoredDataset.open(folder) as stored:
        return np.stack([decoded(stored.split("train"), index, 6) for index in range(10)])


@pytest.fixture
def images(folder):
    return decode_on_demand(folder, "train", 6, threads=2)


@pytest.fixture
def begun(monkeypatch):
    """The places whose decoding was begun, in order."""
    places = []
    begin = decoding.Decoder._begin

    def noting(self, place):
        places.append(place)
        return begin(self, place)

    monkeypatch.setattr(decoding.Decoder, "_begin", noting)
    return places


def test_it_is_indexed_like_the_array(images, whole):
    assert images.shape == whole.shape
    assert images.dtype == whole.dtype
    assert len(images) == 10
    assert np.array_equal(images[3], whole[3])
    assert np.array_equal(images[np.array([4, 1, 4])], whole[[4, 1, 4]])
    assert np.array_equal(np.array(images), whole)
    assert np.array_equal(np.array(images[1::3][1:]), whole[1::3][1:])
    assert np.asarray(images, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="new array"):
        np.asarray(images, copy=False)


def test_a_slice_decodes_nothing(images, begun):
    assert images[2:8].shape == (6, 3, 6, 6)
    assert begun == []


def test_what_is_expected_is_decoded_once(images, whole, begun):
    images.expect([np.array([1, 2]), np.array([5, 1])])

    assert begun == [1, 2, 5]
    assert np.array_equal(images[np.array([2, 5])], whole[[2, 5]])
    assert begun == [1, 2, 5]


def test_what_is_no_longer_expected_is_dropped(images, whole, begun):
    images.expect([np.array([1, 2])])
    images.expect([np.array([2, 3])])

    assert begun == [1, 2, 3]
    assert np.array_equal(images[np.array([1])], whole[[1]])
    assert begun == [1, 2, 3, 1]


def test_a_part_is_expected_by_its_own_numbers(images, begun):
    images[::2].expect([np.array([1, 3])])

    assert begun == [2, 6]


def test_a_damaged_picture_is_told_when_it_is_asked_for(folder):
    blob = folder / BLOB
    blob.write_bytes(bytes(blob.stat().st_size))
    images = decode_on_demand(folder, "train", 6, threads=2)
    images.expect([np.array([0])])

    with pytest.raises(StorageFailed, match="damaged"):
        images[0]
