"""``python -m core.ingest.sandboxed_main``: take in one archive in a process of its own.

JSON comes in on stdin (:class:`Archive`). One line of JSON goes out on stdout: ``{"ok": {...}}``, the fields of an
:class:`core.ingest.dataset.IngestReport`, with the dataset stored in ``out_folder``, or ``{"error": {...}}`` as
``core.errors.error_document`` writes it. The exit status is 0 in both cases; anything else means that the process
itself died. Whoever calls it sets limits of memory, time and file sizes; network, other programs and other
files it gives up by itself before it looks at the archive.
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
from core.ingest.limits import readable
from core.ingest.source_files import Labels
from core.ingest_errors import UnpackedTooLarge
from core.spec.document import StrictModel
from core.system.sandbox import confine


class Limits(StrictModel):
    """The fields of :class:`core.ingest.limits.IngestLimits`."""

    max_unpacked_bytes: int
    max_unpack_ratio: float
    max_archive_files: int
    max_image_pixels: int
    max_file_bytes: int


class Archive(StrictModel):
    """What is to be taken in; paths are on this machine."""

    file: Path
    out_folder: Path
    name: str
    labels: Labels = "auto"
    limits: Limits


def main(source: TextIO, target: TextIO) -> None:
    """Read an archive's description from ``source``, write the answer to ``target``. Confines this process."""
    archive = Archive.model_validate_json(source.read())
    confine(readable=[archive.file], writable=[archive.out_folder.parent])
    target.write(json.dumps(answer(archive)) + "\n")


def answer(archive: Archive) -> dict[str, Any]:
    """Take one archive in; every fault of it is part of the answer."""
    limits = IngestLimits(**archive.limits.model_dump())
    try:
        report = ingest_archive(archive.file, archive.out_folder, limits, name=archive.name, labels=archive.labels)
    except PotstillError as error:
        return {"error": error_document(error)}
    except MemoryError:
        fault: PotstillError = OutOfMemory("There was not enough memory; are there extraordinarily large images?")
    except OSError as error:
        fault = _of_the_disk(error, limits)
    except Exception as error:  # noqa: BLE001 - whoever reads the answer says it; the trace goes to the log
        traceback.print_exc()
        fault = PotstillError(f"{type(error).__name__}: {error}")
    else:
        return {"ok": asdict(report)}
    return {"error": error_document(fault)}


def _of_the_disk(error: OSError, limits: IngestLimits) -> PotstillError:
    if error.errno == errno.EFBIG:  # the process may not write larger files
        most = readable(limits.max_unpacked_bytes)
        return UnpackedTooLarge(f"the files take more than {most} unpacked; send a part of them")
    return StorageFailed(f"This machine's disk failed: {error.strerror or error}.")


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
