"""Corpus of hostile files: one builder per case with its expected result. Files are generated, not stored."""

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
"""Smaller than the service's limits, so that files that reach a limit are fast to build."""


@dataclass(frozen=True)
class Case:
    """A file and its expected result.

    ``code``: error code of the dataset, None if it becomes ready. ``rejected``: codes of rejected files by path.
    """

    name: str
    build: Callable[[], bytes]
    code: str | None
    rejected: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    check: Callable[..., None] | None = None  # receives the stored dataset


CASES: dict[str, Case] = {}


def fails(code, **limits):
    """Register a builder whose file fails its dataset with this code."""
    return lambda build: _register(build, code, {}, limits, None)


def rejected_file(path, code, **limits):
    """Register a builder with one bad file: the dataset becomes ready and lists the file as rejected."""
    return lambda build: _register(build, None, {path: code}, limits, None)


def accepted(check=None, **limits):
    """Register a builder of an unusual but valid file."""
    return lambda build: _register(build, None, {}, limits, check)


def _register(build, code, rejected, limits, check):
    assert build.__name__ not in CASES
    CASES[build.__name__] = Case(build.__name__, build, code, rejected, limits, check)
    return build


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@cache
def valid_png(seed=0, size=(8, 8)):
    """Make a valid PNG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def tree(extra=None):
    """The files of a small dataset plus ``extra``."""
    names = [f"{split}/{c}/{i}.png" for split in ("train", "test") for c in ("cat", "dog") for i in range(2)]
    return {name: valid_png(seed) for seed, name in enumerate(names)} | (extra or {})


def zipped(files, compression=zipfile.ZIP_STORED):
    """Make a zip from contents by name or by ``ZipInfo``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files.items() if isinstance(files, Mapping) else files:
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files, mode="w", extra=(), **options):
    """Make a tar from contents by name, followed by (header, content) pairs."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info, content in extra:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()
