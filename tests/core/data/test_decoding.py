"""Images decoded on demand are indexed like an array, and can be prefetched."""

import numpy as np
import pytest
from PIL import Image

from core.data import decoding
from core.data.decoding import decode_image, decode_on_demand
from core.data.pixels import load_pixels
from core.data.records import BLOB
from core.data.stored import StoredDataset
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


# --- large JPEGs ------------------------------------------------------------------------------------


def photograph(size, *, seed=0):
    """A smooth image with detail at every scale."""
    generator = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3))
    for cells in (4, 16, 64):
        coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), float) / cells
    return Image.fromarray((total / total.max() * 255).astype(np.uint8))


@pytest.fixture
def photographs(ingest, zipped, encoded, tmp_path):
    """Photographs of 200 × 160 pixels as JPEG, and one as PNG, in both splits."""
    names = [f"{split}/{label}/{index}" for split in ("train", "test") for label in "ab" for index in range(3)]
    files = {f"{name}.jpg": encoded(photograph((200, 160), seed=i), kind="JPEG") for i, name in enumerate(names)}
    ingest(zipped(files | {"train/a/9.png": encoded(photograph((200, 160), seed=99))}))
    with StoredDataset.open(tmp_path / "stored") as stored:
        yield stored


@pytest.mark.parametrize(
    ("image_size", "decoded"), [(81, (200, 160)), (80, (200, 160)), (40, (100, 80)), (21, (100, 80)), (20, (50, 40))]
)
def test_a_large_jpeg_is_decoded_at_no_less_than_twice_the_image_size(photographs, image_size, decoded):
    assert photographs.split("train").read(0, min_side=2 * image_size).size == decoded


def test_only_large_jpegs_of_the_training_split_are_decoded_at_a_fraction(photographs):
    def decode_in_full(split, index):
        return np.asarray(decoding.center_square(split.read(index), 24)).transpose(2, 0, 1)

    train, test = photographs.split("train"), photographs.split("test")
    scaled, full = decode_image(train, 0, 24), decode_in_full(train, 0)
    error = np.abs(scaled.astype(int) - full).mean()

    assert train.paths[3].endswith(".png")
    assert 0 < error < 0.5
    assert np.array_equal(decode_image(train, 3, 24), decode_in_full(train, 3))
    assert np.array_equal(decode_image(test, 0, 24), decode_in_full(test, 0))


def test_a_large_jpeg_has_the_same_bits_on_demand_and_in_the_cache(photographs, tmp_path):
    cached = load_pixels(photographs, "train", 24, tmp_path / "cache")
    on_demand = decode_on_demand(photographs.folder, "train", 24, threads=2)

    assert not cached.is_decoded_on_demand
    assert np.array_equal(cached.images, np.asarray(on_demand))
