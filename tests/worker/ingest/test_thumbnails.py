"""Thumbnails are made in a sandboxed process, and a dataset without them is complete."""

import numpy as np
import pytest
from PIL import Image

from core.data.records import THUMBNAIL_INDEX, THUMBNAILS
from core.ingest.dataset import ingest_folder
from core.reporting import Control
from tests.support.images import store_band_images
from worker.ingest.thumbnails import add_thumbnails

MEMORY_BYTES = 2 * 1024**3


def add(folder, scratch, memory_bytes=MEMORY_BYTES):
    scratch.mkdir()
    add_thumbnails(folder, "ds_1", scratch=scratch, memory_bytes=memory_bytes, control=lambda: Control.GO)
    return {path.name for path in folder.iterdir()} & {THUMBNAILS, THUMBNAIL_INDEX}


@pytest.fixture
def photographs(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(5):
            pixels = generator.integers(0, 256, (240, 180, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.jpg")
    ingest_folder(tmp_path / "images", tmp_path / "stored")
    return tmp_path / "stored"


def test_large_images_get_thumbnails_and_a_failure_leaves_none(photographs, tmp_path):
    assert add(photographs, tmp_path / "first", memory_bytes=1024**2) == set()
    assert add(photographs, tmp_path / "second") == {THUMBNAILS, THUMBNAIL_INDEX}


def test_small_images_need_none(tmp_path):
    folder = store_band_images(tmp_path / "bands", num_train=4, num_test=1)

    assert add(folder, tmp_path / "scratch") == set()
    assert list((tmp_path / "scratch").iterdir()) == []  # no process was started
