"""Interface of an export format.

A new format takes one line in ``core.spec.exports.EXPORT_FORMATS``, and one file in this folder with a function
``export(student, context)`` that writes ``context.path`` and returns details for the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from core.data.pixels import Images
from core.models.built import BuiltModel
from core.spec.exports import EXPORT_FORMATS


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportContext:
    """Inputs of an export besides the student.

    Args:
        path: Path of the artifact, in the folder of the exported student.
        samples: Real images (N, C, H, W), uint8, for a comparison with the student.
        poll: Call it during long work; it may raise to interrupt.
    """

    path: Path
    samples: Images
    poll: Callable[[], None]


Exporter = Callable[[BuiltModel, ExportContext], dict[str, Any]]


def exporter(name: str) -> Exporter:
    """Import the function that writes the export format ``name``."""
    module, _, function = EXPORT_FORMATS[name].implementation.partition(":")
    export: Exporter = getattr(import_module(module), function)
    return export
