"""Thumbnails of the large images that pages show."""

import json

import numpy as np
import pytest
from PIL import Image

from core.data.records import THUMBNAIL_INDEX, THUMBNAILS
from core.ingest.dataset import ingest_folder
from core.ingest.thumbnails import SIDE, ThumbnailRequest, choose_images, write_thumbnails


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A stored dataset with one large image of each class and split; the others are small."""
    root = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / "images" / split / name).mkdir(parents=True)
            for index, size in enumerate([(240, 180), (8, 8)]):
                pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "images" / split / name / f"{index}.jpg")
    ingest_folder(root / "images", root / "stored")
    return root / "stored"


def test_only_large_images_are_chosen_and_the_seed_decides(stored):
    assert choose_images(stored, "ds_1") == {"train": [0, 2], "test": [0, 2]}


def test_thumbnails_are_small_squares(stored, tmp_path):
    request = ThumbnailRequest(folder=stored, out_folder=tmp_path, indices={"train": [0, 2], "test": [2]})

    assert write_thumbnails(request) == 3
    positions = json.loads((tmp_path / THUMBNAIL_INDEX).read_text())
    assert {split: list(found) for split, found in positions.items()} == {"train": ["0", "2"], "test": ["2"]}
    content = (tmp_path / THUMBNAILS).read_bytes()
    assert sum(size for found in positions.values() for _, size in found.values()) == len(content)
    offset, size = positions["train"]["2"]
    (tmp_path / "one.jpg").write_bytes(content[offset : offset + size])
    with Image.open(tmp_path / "one.jpg") as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (SIDE, SIDE), "RGB")
