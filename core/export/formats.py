"""Interface of an export format.

A new format takes one line in ``core.spec.exports.EXPORT_FORMATS``, and one file in this folder with a function
``export(student, context)`` that writes ``context.path`` and returns details for the report. Beside it, the file may
have a function ``check(student)`` that raises ``ExportFailed`` for a network which the format is known not to hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from core.data.pixels import Images
from core.errors import ExportFailed, PotstillError
from core.export.reason import reason
from core.job_warnings import JobWarning
from core.models.built import BuiltModel
from core.reporting import Interrupted
from core.spec.exports import EXPORT_FORMATS
from core.system.disk import writing

log = logging.getLogger(__name__)


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


def no_poll() -> None:
    """Never interrupt."""


def check_format(name: str, student: BuiltModel) -> None:
    """Raise ``ExportFailed`` if ``name`` is known not to hold this network, which may be on the meta device.

    Takes milliseconds: it computes nothing with the network.
    """
    module, _, _ = EXPORT_FORMATS[name].implementation.partition(":")
    check: Callable[[BuiltModel], None] | None = getattr(import_module(module), "check", None)
    if check is not None:
        check(student)


def write_format(name: str, student: BuiltModel, context: ExportContext) -> dict[str, Any]:
    """Write the export format ``name``, or leave no file; return details for the report.

    Raises:
        ExportFailed: The format failed, with whatever exception; the other files do not depend on it.
        StorageFailed: The disk failed.
        Interrupted, RunError: ``context.poll`` raised it.
    """
    try:
        with writing(context.path.name):
            return exporter(name)(student, context)
    except (ExportFailed, PotstillError, Interrupted) as error:
        if isinstance(error, ExportFailed):
            context.path.unlink(missing_ok=True)
        raise
    except Exception as error:  # a format may use any library
        log.warning("The export format %s failed.", name, exc_info=True)
        context.path.unlink(missing_ok=True)
        raise ExportFailed(f"{name} cannot be written: {reason(error)}") from error


def failure_warning(failures: Mapping[str, str]) -> JobWarning:
    """Return the warning about formats that cannot be written; ``failures`` has the reason by format."""
    return JobWarning(
        code=ExportFailed.code,
        field="/export",
        message="; ".join(f"{EXPORT_FORMATS[name].file_name} is left out: {why}" for name, why in failures.items()),
        fix=f"leave {' and '.join(failures)} out of export, or take another student; the other files are complete",
    )


def exporter(name: str) -> Exporter:
    """Import the function that writes the export format ``name``."""
    module, _, function = EXPORT_FORMATS[name].implementation.partition(":")
    export: Exporter = getattr(import_module(module), function)
    return export
