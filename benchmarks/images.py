"""Small images for the speed benchmarks: CIFAR-10 where its archive exists, else scikit-learn's digits."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from benchmarks.cifar10 import ARCHIVE
from core.data.stored import INDEX
from core.ingest.dataset import ingest_folder

NUM_CLASSES = 10
NUM_TEST_IMAGES = 10  # minimal: validation after each epoch is counted for our jobs only


def stored_images(work: Path, num_train: int, *, side: int = 32) -> tuple[Path, str]:
    """Return a stored dataset of ``num_train`` training images, and its source. Digits are resized to ``side`` in RGB.

    When the source has fewer images, they are repeated with one pixel changed.
    """
    source = "CIFAR-10" if ARCHIVE.is_file() else "digits"
    target = work / f"{source}-{num_train}-{NUM_TEST_IMAGES}-{side}"
    if not (target / INDEX).is_file():
        loose = target.with_name(f".{target.name}-files")
        shutil.rmtree(loose, ignore_errors=True)
        numbers = {"train": num_train, "test": NUM_TEST_IMAGES}
        for split, count in numbers.items():
            made = _photographs(split) if source == "CIFAR-10" else _digits(split, side)
            for number, (label, content) in zip(range(count), made, strict=False):
                path = loose / split / label / f"{number:06d}.{'jpg' if source == 'CIFAR-10' else 'png'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        ingest_folder(loose, target)
        shutil.rmtree(loose)
    return target, source


def stored_photographs(work: Path, num_train: int, *, widths: tuple[int, int]) -> tuple[Path, Path]:
    """Write JPEGs of many sizes, and return their folder and the stored dataset.

    They are random parts of scikit-learn's two sample photographs with fine noise, of quality 85 to 95. Widths are
    log-uniform between the given ones, in pixels; heights are 0.6 to 1 of them.
    """
    loose, target = work / "photographs", work / "stored-photographs"
    generator = np.random.default_rng(0)
    sources = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    for split, count in (("train", num_train), ("test", NUM_TEST_IMAGES)):
        for number in range(count):
            path = loose / split / f"class{number % NUM_CLASSES}" / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            width = round(float(np.exp(generator.uniform(*np.log(widths)))))
            image = _random_part(sources[number % len(sources)], width, generator)
            image.save(path, quality=int(generator.integers(85, 96)))
    ingest_folder(loose, target)
    return loose, target


def _random_part(photograph: Image.Image, width: int, generator: np.random.Generator) -> Image.Image:
    height = round(width * generator.uniform(0.6, 1))
    scale = generator.uniform(0.5, 1) * min(photograph.width / width, photograph.height / height)
    left = generator.uniform(0, photograph.width - scale * width)
    top = generator.uniform(0, photograph.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    pixels = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC, box=box), np.float32)
    noisy = pixels + generator.normal(0, 4, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _photographs(split: str) -> Iterator[tuple[str, bytes]]:
    """Yield (label, JPEG bytes) from the archive, one image of each class in turn."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith(f"{split}/") and name.endswith(".jpg"))
        classes = sorted({name.split("/")[1] for name in names})
        columns = [[name for name in names if name.split("/")[1] == label] for label in classes]
        for row in zip(*columns, strict=False):
            for label, name in zip(classes, row, strict=True):
                yield label, archive.read(name)


def _digits(split: str, side: int) -> Iterator[tuple[str, bytes]]:
    digits = load_digits()
    half = len(digits.images) // 2
    indices = range(half) if split == "train" else range(half, len(digits.images))
    for turn in range(1_000):
        for index in indices:
            small = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
            large = np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).convert("RGB"))
            large = large.copy()
            large[0, 0] = (turn % 256, turn // 256, 0)  # ingestion leaves out duplicates
            file = io.BytesIO()
            Image.fromarray(large).save(file, format="PNG")
            yield str(digits.target[index]), file.getvalue()
