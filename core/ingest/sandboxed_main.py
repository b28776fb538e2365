"""``python -m core.ingest.sandboxed_main``: ingest one archive in a separate process.

stdin: JSON (:class:`IngestRequest`). stdout: one line of JSON. On success it is ``{"ok": {...}}`` with the fields
of :class:`core.ingest.dataset.IngestReport`, and the dataset is in ``out_folder``. On failure it is
``{"error": {...}}`` from ``core.errors.error_document``. The exit status is 0 in both cases; another status means
that the process died.

The caller limits memory, time and file sizes. This process drops its access to the network, to other programs and
to other files before it reads the archive.
"""

from __future__ import annotations

import errno
import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from core.errors import OutOfMemory, PotstillError, StorageFailed, error_document
from core.ingest.dataset import IngestLimits, ingest_archive
from core.ingest.limits import format_bytes
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
    """An archive to ingest, with local paths."""

    file: Path
    out_folder: Path
    name: str
    layout: LayoutOptions = LayoutOptions()
    limits: Limits


def main(source: TextIO, target: TextIO) -> None:
    """Read a request from ``source``, sandbox this process, write the result to ``target``."""
    request = IngestRequest.model_validate_json(source.read())
    enter_sandbox(readable=[request.file], writable=[request.out_folder.parent])
    target.write(json.dumps(ingest(request)) + "\n")


def ingest(request: IngestRequest) -> dict[str, Any]:
    """Ingest one archive; errors are part of the result."""
    limits = IngestLimits(**request.limits.model_dump())
    try:
        report = ingest_archive(request.file, request.out_folder, limits, name=request.name, options=request.layout)
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
        warnings = [warning.model_dump(mode="json") for warning in report.warnings]
        return {"ok": asdict(report) | {"warnings": warnings}}
    return {"error": error_document(failure)}


def _disk_error(error: OSError, limits: IngestLimits) -> PotstillError:
    if error.errno == errno.EFBIG:  # the limit on file sizes
        limit = format_bytes(limits.max_unpacked_bytes)
        return UnpackedTooLarge(f"the files take more than {limit} unpacked; send fewer files")
    return StorageFailed(f"This machine's disk failed: {error.strerror or error}.")


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
