"""``python -m core.ingest.image_main``: decode one uploaded image at some sizes, in a separate process.

stdin: JSON (:class:`ImageRequest`). stdout: one line of JSON, ``{"ok": {"width", "height"}}`` with the size of the
upright image in pixels, or ``{"error": {...}}`` from ``core.errors.error_document``. The pixels are in ``out_folder``,
as :func:`pixels_path` names them: uint8 (C, S, S), the center square resized as for the evaluation of a job.

The caller limits memory, time and file sizes. This process drops its access to the network, to other programs and to
other files before it reads the image.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from core.data.decoding import center_square
from core.data.images import BrokenImage, decode
from core.errors import error_document
from core.ingest_errors import ImageUnreadable
from core.spec.document import StrictModel
from core.system.sandbox import enter_sandbox


class ImageRequest(StrictModel):
    """An image file, with local paths. ``sizes`` are pixels a side."""

    file: Path
    out_folder: Path
    sizes: tuple[int, ...]
    max_pixels: int


def pixels_path(folder: Path, size: int) -> Path:
    """Return the file with the pixels at this size, as ``numpy.save`` writes it."""
    return folder / f"{size}.npy"


def main(source: TextIO, target: TextIO) -> None:
    """Read a request from ``source``, sandbox this process, write the result to ``target``."""
    request = ImageRequest.model_validate_json(source.read())
    enter_sandbox(readable=[request.file], writable=[request.out_folder])
    target.write(json.dumps(decode_at_sizes(request)) + "\n")


def decode_at_sizes(request: ImageRequest) -> dict[str, Any]:
    """Decode the image and save it at each size; errors are part of the result."""
    try:
        image = decode(request.file.read_bytes(), max_pixels=request.max_pixels)
    except BrokenImage as error:
        return {"error": error_document(ImageUnreadable.for_field("/file", str(error)))}
    except MemoryError:
        detail = "there was not enough memory to decode it; make the image smaller"
        return {"error": error_document(ImageUnreadable.for_field("/file", detail))}
    for size in request.sizes:
        pixels = np.asarray(center_square(image, size)).reshape(size, size, -1).transpose(2, 0, 1)
        np.save(pixels_path(request.out_folder, size), np.ascontiguousarray(pixels))
    width, height = image.size
    return {"ok": {"width": width, "height": height}}


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
