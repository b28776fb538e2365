"""``python -m core.models.upload_check``: check an uploaded model in a separate process.

Reads JSON from stdin: ``{"file", "architecture", "arguments", "normalization", "classes", "out_folder"}``. Writes one
line of JSON to stdout: ``{"ok": ModelInfo}``, with the model stored in ``out_folder``, or ``{"error": {...}}`` as
``core.errors.error_document`` writes it. The exit status is 0 in both cases; any other status means that the process
died, for example at a memory or time limit. The caller sets these limits and needs no torch. The process itself gives
up access to network, programs and other files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import torch
from pydantic import Field

from core.errors import OutOfMemory, PotstillError, error_document
from core.models.upload import check_upload
from core.spec.document import StrictModel
from core.spec.info import Normalization
from core.system.sandbox import enter_sandbox


class Upload(StrictModel):
    """The upload to check; paths are local."""

    file: Path
    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    normalization: Normalization | None = None
    classes: tuple[str, ...] | None = None
    out_folder: Path


def main(source: TextIO, target: TextIO) -> None:
    """Read an upload from ``source`` and write the result to ``target``. Sandboxes this process."""
    upload = Upload.model_validate_json(source.read())
    enter_sandbox(readable=[upload.file], writable=[upload.out_folder.parent])
    target.write(json.dumps(check(upload)) + "\n")


def check(upload: Upload) -> dict[str, Any]:
    """Check one upload; errors of the upload are returned, not raised."""
    torch.set_num_threads(1)  # leaves the other cores to running jobs
    try:
        info = check_upload(
            upload.file,
            upload.architecture,
            upload.arguments,
            normalization=upload.normalization,
            classes=upload.classes,
            out_folder=upload.out_folder,
        )
    except PotstillError as error:
        return {"error": error_document(error)}
    except MemoryError:
        return {"error": error_document(OutOfMemory("The model needs more memory than the check may use."))}
    return {"ok": info.model_dump(mode="json")}


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
