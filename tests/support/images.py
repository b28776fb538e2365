"""Image folders and datasets of small gray images."""

import numpy as np
from PIL import Image

from core.ingest.dataset import ingest_folder


def write_gray_images(folder, values, size=8):
    """Write one uniform image per gray value: `00.png`, `01.png`, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for index, value in enumerate(values):
        Image.fromarray(np.full((size, size), value, np.uint8)).save(folder / f"{index:02d}.png")


def store_band_images(root, *, num_train, num_test, size=8):
    """Store a dataset of three classes, each marked by a bright band. Counts are per class; returns its folder."""
    generator = np.random.default_rng(0)
    for split, count in (("train", num_train), ("test", num_test)):
        for label in range(3):
            folder = root / "images" / split / f"band{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                image = generator.integers(0, 120, (size, size), dtype=np.uint8)
                image[2 * label : 2 * label + 2] += 120
                Image.fromarray(image).save(folder / f"{index:02d}.png")
    ingest_folder(root / "images", root / "stored")
    return root / "stored"


def store_stripe_images(root, *, num_train, num_test, size=32, period=4):
    """Store a dataset of two classes, horizontal and vertical stripes that vanish at half of their size or less.

    Counts are per class; returns its folder.
    """
    generator = np.random.default_rng(0)
    for split, count in (("train", num_train), ("test", num_test)):
        for label in range(2):
            folder = root / "images" / split / f"direction{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                wave = np.sin((np.arange(size) + generator.uniform(0, period)) * 2 * np.pi / period)
                image = 128 + 60 * np.broadcast_to(wave, (size, size)) + generator.normal(0, 25, (size, size))
                image = image if label else image.T
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{index:02d}.png")
    ingest_folder(root / "images", root / "stored")
    return root / "stored"
