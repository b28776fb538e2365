"""Decode one image file to check it, and compute the digest of its pixels."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from core.data.deep_images import DeepImage
from core.data.images import BrokenImage, Decoded, PixelBuffer, decode_values

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """Properties of a readable image.

    Attributes:
        is_grayscale: Whether the file has one channel.
        width: In pixels, upright.
        height: In pixels, upright.
        crc32: Of the file.
        digest: BLAKE3 of kind, size and decoded values; independent of the file's format and compression.
        max_value: The largest value of an image with more than 8 bits per channel; None for an 8-bit image.
    """

    is_grayscale: bool
    width: int
    height: int
    crc32: int
    digest: bytes
    max_value: int | None = None


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """An image that is left out, with the reason and its stable code."""

    reason: str
    code: str


@dataclass(frozen=True, slots=True)
class MemoryExceeded:
    """An image for which there was not enough memory."""


CheckResult = CheckedImage | UnreadableImage | MemoryExceeded


def check_image(content: bytes, max_pixels: int, buffer: PixelBuffer | None = None) -> CheckResult:
    """Decode an image file, into the memory of ``buffer`` where it fits, to check it."""
    try:
        decoded = decode_values(content, max_pixels=max_pixels, buffer=buffer)
        return _checked(content, decoded)
    except BrokenImage as error:
        return UnreadableImage(str(error), error.code)
    except MemoryError:
        return MemoryExceeded()


def _checked(content: bytes, decoded: Decoded) -> CheckedImage:
    if isinstance(decoded, DeepImage):
        width, height = decoded.size
        is_grayscale, max_value = decoded.is_grayscale, decoded.max_value
    else:
        height, width = decoded.shape[:2]
        is_grayscale, max_value = decoded.ndim == 2, None
    return CheckedImage(is_grayscale, width, height, zlib.crc32(content), _digest(decoded), max_value)


def _digest(decoded: Decoded) -> bytes:
    arrays: list[npt.NDArray[Any]] = [decoded] if isinstance(decoded, np.ndarray) else [decoded.values]
    if isinstance(decoded, DeepImage) and decoded.alpha is not None:
        arrays.append(decoded.alpha)
    total = blake3()
    for array in arrays:
        little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        total.update(f"{little_endian.dtype.str} {'x'.join(map(str, array.shape))}\n".encode())
        total.update(little_endian.data.cast("B"))
    return total.digest()
