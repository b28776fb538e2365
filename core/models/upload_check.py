"""``python -m core.models.upload_check``: check an uploaded model in a process of its own.

JSON comes in on stdin: ``{"file", "architecture", "arguments", "normalization", "classes", "out_folder"}``.
One line of JSON goes out on stdout: ``{"ok": ModelFacts}``, with the model stored in ``out_folder``, or
``{"error": {...}}`` as ``core.errors.error_document`` writes it. The exit status is 0 in both cases;
anything else means that the process itself died (memory, a time limit). Whoever calls it sets the
limits and needs no torch; network, other programs and other files this process gives up by itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import torch
from pydantic import Field

from core.errors import OutOfMemory, PotstillError, error_document
from core.models.weights import check_upload
from core.spec.document import StrictModel
from core.spec.info import Normalization
from core.system.sandbox import enter_sandbox


class Upload(StrictModel):
    """What is to be checked; paths are on this machine."""

    file: Path
    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    normalization: Normalization | None = None
    classes: tuple[str, ...] | None = None
    out_folder: Path


def main(source: TextIO, target: TextIO) -> None:
    """Read an upload from ``source``, write the answer to ``target``. Confines this process."""
    upload = Upload.model_validate_json(source.read())
    enter_sandbox(readable=[upload.file], writable=[upload.out_folder.parent])
    target.write(json.dumps(check(upload)) + "\n")


def check(upload: Upload) -> dict[str, Any]:
    """Check one upload; every fault of the upload is part of the answer."""
    torch.set_num_threads(1)  # jobs are training beside this
    try:
        facts = check_upload(
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
        return {"error": error_document(OutOfMemory("The model needs more memory than is left for checking it."))}
    return {"ok": facts.model_dump(mode="json")}


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
