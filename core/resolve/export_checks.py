"""Export formats that are known not to hold the student."""

from __future__ import annotations

from core.errors import ExportFailed, FieldError, NotAvailable
from core.export.formats import check_format, missing_packages
from core.job_warnings import JobWarning
from core.models.built import BuiltModel
from core.spec import JobSpec
from core.spec.exports import EXPORT_FORMATS, ExportEntry, export_entry

_FIELD = "/export"
_EXAMPLE = "vit_small_patch16_224"


def _require_installed(spec: JobSpec) -> None:
    """Check that the packages of all formats are installed here, on a machine like the workers'.

    Raises:
        NotAvailable: Names the missing packages, and how to install them.
    """
    errors = []
    for name in dict.fromkeys(options.format for options in spec.export_options):
        missing = missing_packages(name)
        if missing:
            errors.append(
                FieldError(
                    _FIELD,
                    f"{name} is not available: the workers lack {' and '.join(missing)}; install "
                    f"'potstill-server[{EXPORT_FORMATS[name].extra}]' there, or leave {name} out of export",
                )
            )
    if errors:
        raise NotAvailable.for_fields(errors)


def check_formats(
    spec: JobSpec, student: BuiltModel
) -> tuple[tuple[ExportEntry, ...], list[FieldError], list[JobWarning]]:
    """Return the formats to export, and what is known about the others.

    A format that the spec names is an error; one of the default formats is left out with a warning. ``student`` may be
    on the meta device. Raises ``NotAvailable`` if the packages of a format are not installed.
    """
    _require_installed(spec)
    requested = dict.fromkeys(options.format for options in spec.export_options)
    failures = {name: failure for name in requested if (failure := _failure(name, student)) is not None}
    formats = tuple(export_entry(options) for options in spec.export_options if options.format not in failures)
    details = [f"{name}: {failure}" for name, failure in failures.items()]
    names = " and ".join(failures)
    if "export" in spec.model_fields_set:
        fix = f"leave {names} out of export, or take another student, such as {_EXAMPLE}"
        return formats, [FieldError(_FIELD, f"{detail}; {fix}") for detail in details], []
    fix = f"take another student, such as {_EXAMPLE}, if you need {names}"
    return formats, [], [JobWarning(code=ExportFailed.code, field=_FIELD, message=d, fix=fix) for d in details]


def _failure(name: str, student: BuiltModel) -> str | None:
    try:
        check_format(name, student)
    except ExportFailed as error:
        return error.detail
    return None
