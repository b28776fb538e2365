"""Interface of an export format.

A new format takes one line in ``core.spec.exports.EXPORT_FORMATS``, and one file in this folder with two functions:
``export(student, context)`` writes ``context.path``, compares it with the student and returns details for the report;
``open_runner(path)`` opens the file in its runtime. The file may also have a function ``check(student)`` that raises
``ExportFailed`` for a network which the format is known not to hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from core.data.pixels import Images
from core.errors import ExportFailed, PotstillError
from core.export.parity import Runner
from core.export.reason import reason
from core.job_warnings import JobWarning
from core.models.built import BuiltModel
from core.reporting import Interrupted
from core.spec.export_options import ExportOptions
from core.spec.exports import EXPORT_FORMATS, file_names
from core.system.disk import writing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportContext:
    """Inputs of an export besides the student.

    Args:
        folder: Folder of the exported student.
        options: The entry of the spec.
        samples: Real images (N, C, H, W), uint8, for a comparison with the student.
        poll: Call it during long work; it may raise to interrupt.
    """

    folder: Path
    options: ExportOptions
    samples: Images
    poll: Callable[[], None]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Paths of all files of the format."""
        return tuple(self.folder / name for name in file_names(self.options))

    @property
    def path(self) -> Path:
        """Path of the file that the runtime opens."""
        return self.paths[0]


Exporter = Callable[[BuiltModel, ExportContext], dict[str, Any]]


def no_poll() -> None:
    """Never interrupt."""


def check_format(name: str, student: BuiltModel) -> None:
    """Raise ``ExportFailed`` if ``name`` is known not to hold this network, which may be on the meta device.

    Takes milliseconds: it computes nothing with the network.
    """
    check: Callable[[BuiltModel], None] | None = getattr(_module(name), "check", None)
    if check is not None:
        check(student)


def missing_packages(name: str) -> tuple[str, ...]:
    """Return the packages of the format ``name`` that are not installed here."""
    return tuple(package for package in EXPORT_FORMATS[name].packages if installed_version(package) is None)


@cache  # reading its metadata takes longer than the other checks of a format
def installed_version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_format(student: BuiltModel, context: ExportContext) -> dict[str, Any]:
    """Write an export format, or leave no file; return details for the report.

    Raises:
        ExportFailed: The format failed, with whatever exception; the other files do not depend on it.
        StorageFailed: The disk failed.
        Interrupted, RunError: ``context.poll`` raised it.
    """
    return guard_format(context, lambda: exporter(context.options.format)(student, context))


def guard_format(context: ExportContext, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do part of an export; delete the format's files if it fails. Raises as :func:`write_format` does."""
    try:
        with writing(context.path.name):
            return work()
    except (ExportFailed, PotstillError, Interrupted) as error:
        if isinstance(error, ExportFailed):
            _delete(context)
        raise
    except Exception as error:  # a format may use any library
        log.warning("The export of %s failed.", context.options.label, exc_info=True)
        _delete(context)
        raise ExportFailed(f"{context.options.format} cannot be written: {reason(error)}") from error


def _delete(context: ExportContext) -> None:
    for path in context.paths:
        path.unlink(missing_ok=True)


def failure_warning(failures: Mapping[ExportOptions, str]) -> JobWarning:
    """Return the warning about formats that cannot be written; ``failures`` has the reason of each."""
    return JobWarning(
        code=ExportFailed.code,
        field="/export",
        message="; ".join(f"{file_names(options)[0]} is left out: {why}" for options, why in failures.items()),
        fix=f"leave {' and '.join(options.label for options in failures)} out of export, or take another student; the "
        "other files are complete",
    )


def exporter(name: str) -> Exporter:
    """Import the function that writes the export format ``name``."""
    _, _, function = EXPORT_FORMATS[name].implementation.partition(":")
    export: Exporter = getattr(_module(name), function)
    return export


def runner_for(name: str, path: Path) -> Runner:
    """Open a file of the export format ``name`` in its runtime."""
    open_runner: Callable[[Path], Runner] = _module(name).open_runner
    return open_runner(path)


def _module(name: str) -> ModuleType:
    return import_module(EXPORT_FORMATS[name].implementation.partition(":")[0])
