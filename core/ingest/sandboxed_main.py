"""``python -m core.ingest.sandboxed_main``: ingest one archive in a separate process.

stdin: JSON (:class:`IngestRequest`). stdout: one line of JSON. On success it is ``{"ok": {...}}`` with the fields
of :class:`core.ingest.dataset.IngestReport`, and the dataset is in ``out_folder``. On failure it is
``{"error": {...}}`` from ``core.errors.error_document``. The exit status is 0 in both cases; another status means
that the process died.

The caller limits memory, time and file sizes. This process starts the decoder processes, which have the same limits.
Then it drops its access to the network, to other programs and to other files, and reads the archive.
"""

from __future__ import annotations

import errno
import json
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO

from pydantic import Field

from core.errors import OutOfMemory, PotstillError, StorageFailed, error_document
from core.ingest.dataset import IngestLimits, ingest_archive
from core.ingest.decoder_pool import DecoderPool
from core.ingest.limits import format_bytes
from core.ingest.progress_record import write_progress
from core.ingest_errors import UnpackedTooLarge
from core.spec.dataset_layout import LayoutOptions
from core.spec.document import StrictModel
from core.system.sandbox import enter_sandbox


class Limits(StrictModel):
    """The fields of :class:`core.ingest.limits.IngestLimits`."""

    max_unpacked_bytes: int
    max_unpack_ratio: float
    max_archive_files: int
    max_image_pixels: int
    max_file_bytes: int


class IngestRequest(StrictModel):
    """An archive to ingest, with local paths.

    Attributes:
        processes: Number of decoder processes.
        progress_fd: Descriptor of the file that receives the progress.
    """

    file: Path
    out_folder: Path
    name: str
    layout: LayoutOptions = LayoutOptions()
    limits: Limits
    processes: Annotated[int, Field(ge=1)] = 1
    progress_fd: int | None = None


def main(source: TextIO, target: TextIO) -> None:
    """Read a request from ``source``, sandbox this process, write the result to ``target``."""
    request = IngestRequest.model_validate_json(source.read())
    with DecoderPool(request.processes, max_pixels=request.limits.max_image_pixels) as decoders:
        enter_sandbox(readable=[request.file], writable=[request.out_folder.parent])
        document = ingest(request, decoders)
    target.write(json.dumps(document) + "\n")


def ingest(request: IngestRequest, decoders: DecoderPool | None = None) -> dict[str, Any]:
    """Ingest one archive; errors are part of the result. ``decoders``: None decodes in this process."""
    limits = IngestLimits(**request.limits.model_dump())
    progress = None if request.progress_fd is None else partial(write_progress, request.progress_fd)
    try:
        report = ingest_archive(
            request.file,
            request.out_folder,
            limits,
            name=request.name,
            options=request.layout,
            decoders=decoders,
            progress=progress,
        )
    except PotstillError as error:
        return {"error": error_document(error)}
    except MemoryError:
        failure: PotstillError = OutOfMemory("There was not enough memory; the dataset may contain very large images.")
    except OSError as error:
        failure = _disk_error(error, limits)
    except Exception as error:  # noqa: BLE001 - the caller reports it; the traceback goes to the log
        traceback.print_exc()
        failure = PotstillError(f"{type(error).__name__}: {error}")
    else:
        return {"ok": report.document()}
    return {"error": error_document(failure)}


def _disk_error(error: OSError, limits: IngestLimits) -> PotstillError:
    if error.errno == errno.EFBIG:  # the limit on file sizes
        limit = format_bytes(limits.max_unpacked_bytes)
        return UnpackedTooLarge(f"the files take more than {limit} unpacked; send fewer files")
    return StorageFailed(f"This machine's disk failed: {error.strerror or error}.")


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
