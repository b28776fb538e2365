import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from core.data.stored import StoredDataset
from core.errors import StorageFailed


@pytest.fixture
def folder(ingest, zipped, tree, tmp_path):
    ingest(zipped(tree()))
    return tmp_path / "stored"


def test_a_split_lists_its_samples_in_the_order_of_their_paths(folder):
    with StoredDataset.open(folder) as stored:
        train = stored.split("train")

        assert train.paths == tuple(f"train/{c}/{i:02d}.png" for c in ("cat", "dog") for i in range(5))
        assert train.labels.tolist() == [0] * 5 + [1] * 5
        assert train.labels.dtype == np.int64
        assert len(stored.split("test")) == 4


def test_a_sample_gives_its_file_and_its_image(folder, tree):
    with StoredDataset.open(folder) as stored:
        train = stored.split("train")

        assert train.encoded(3) == tree()["train/cat/03.png"]
        assert (train.read(3).mode, train.read(3).size) == ("RGB", (8, 8))


def test_the_facts_of_a_dataset_can_be_read(folder):
    with StoredDataset.open(folder) as stored:
        assert (stored.classes, stored.num_classes, stored.channels, stored.image_size) == (("cat", "dog"), 2, 3, 8)
        assert stored.splits == {"train": {"num_samples": 10}, "test": {"num_samples": 4}}
        assert len(stored.fingerprint) == 64


def test_grey_images_among_coloured_ones_are_read_as_rgb(ingest, zipped, tree, encoded, tmp_path):
    ingest(zipped(tree() | {"train/cat/00.png": encoded(mode="L")}))

    with StoredDataset.open(tmp_path / "stored") as stored:
        assert stored.split("train").read(0).mode == "RGB"


def test_the_largest_shorter_side_of_all_splits_is_known(ingest, zipped, tree, encoded, tmp_path):
    ingest(zipped(tree() | {"test/cat/00.png": encoded(seed=99, size=(40, 20))}))

    with StoredDataset.open(tmp_path / "stored") as stored:
        assert (stored.split("train").max_image_size, stored.max_image_size) == (8, 20)


def test_an_unlabelled_dataset_has_no_classes(ingest, zipped, encoded, tmp_path):
    report = ingest(zipped({f"{i}.png": encoded(seed=i) for i in range(10)}))

    with StoredDataset.open(tmp_path / "stored") as stored:
        assert report.classes is report.num_classes is stored.classes is stored.num_classes is None
        assert set(stored.split("train").labels) == {-1}


def test_samples_can_be_read_from_several_threads(folder):
    with StoredDataset.open(folder) as stored, ThreadPoolExecutor(4) as pool:
        train = stored.split("train")
        images = list(pool.map(train.read, list(range(10)) * 20))

        assert all(isinstance(image, Image.Image) for image in images)
        assert images[13].tobytes() == train.read(3).tobytes()


@pytest.mark.parametrize("name", ["index.json", "images.bin", "train.npy", "test.paths"])
def test_a_missing_file_is_noticed(folder, name):
    (folder / name).unlink()

    with pytest.raises(StorageFailed, match="missing"):
        StoredDataset.open(folder)


@pytest.mark.parametrize("name", ["index.json", "images.bin", "train.npy", "test.paths"])
def test_a_file_that_is_cut_off_is_noticed(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])

    with pytest.raises(StorageFailed, match=r"damaged|copy is incomplete"):
        StoredDataset.open(folder)


def test_an_index_of_another_version_is_refused(folder):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"format": 2}))

    with pytest.raises(StorageFailed, match="another version"):
        StoredDataset.open(folder)


def test_an_index_that_does_not_fit_its_files_is_refused(folder):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"classes": ["only"]}))

    with pytest.raises(StorageFailed, match="points outside"):
        StoredDataset.open(folder)


def test_a_damaged_image_is_noticed_when_it_is_read(folder):
    content = bytearray((folder / "images.bin").read_bytes())
    content[40] ^= 1
    (folder / "images.bin").write_bytes(content)

    with StoredDataset.open(folder) as stored:
        train = stored.split("train")

        with pytest.raises(StorageFailed, match="is damaged"):
            train.read(0)  # the first file of the archive
