"""The corpus of hostile files: one builder a case, and what must come of it. Nothing here is stored, code makes it."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from PIL import Image

LIMITS = {
    "max_unpacked_bytes": 200_000_000,
    "max_unpack_ratio": 200.0,
    "max_archive_files": 20_000,
    "max_image_pixels": 64_000_000,
    "max_file_bytes": 90_000_000,
}
"""Smaller than the service's, so that what reaches a limit is made in a moment."""


@dataclass(frozen=True)
class Case:
    """A file and its end. ``code``: of the dataset's error, None where it is ready; ``rejected``: codes by path."""

    name: str
    build: Callable[[], bytes]
    code: str | None
    rejected: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    check: Callable[..., None] | None = None  # is given the stored dataset


CASES: dict[str, Case] = {}


def fails(code, **limits):
    """The decorated builder makes a file that ends its dataset with this code."""
    return lambda build: _register(build, code, {}, limits, None)


def leaves_out(path, code, **limits):
    """The decorated builder makes an odd file: the dataset is ready without it, and says why."""
    return lambda build: _register(build, None, {path: code}, limits, None)


def is_taken(check=None, **limits):
    """The decorated builder makes a file that is odd, but good."""
    return lambda build: _register(build, None, {}, limits, check)


def _register(build, code, rejected, limits, check):
    assert build.__name__ not in CASES
    CASES[build.__name__] = Case(build.__name__, build, code, rejected, limits, check)
    return build


def encoded(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@cache
def good(seed=0, size=(8, 8)):
    """An ordinary picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def tree(extra=None):
    """The files of a small dataset, and those to be added."""
    names = [f"{split}/{c}/{i}.png" for split in ("train", "test") for c in ("cat", "dog") for i in range(2)]
    return {name: good(seed) for seed, name in enumerate(names)} | (extra or {})


def zipped(files, compression=zipfile.ZIP_STORED):
    """A zip of contents by name, or by ``ZipInfo``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files.items() if isinstance(files, Mapping) else files:
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files, mode="w", extra=(), **options):
    """A tar of contents by name and, behind them, of (header, content) pairs."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info, content in extra:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()
