"""Export formats that are known not to hold the student."""

from __future__ import annotations

from core.errors import ExportFailed, FieldError
from core.export.formats import check_format
from core.job_warnings import JobWarning
from core.models.built import BuiltModel
from core.spec import JobSpec

_FIELD = "/export"
_EXAMPLE = "vit_small_patch16_224"


def check_formats(spec: JobSpec, student: BuiltModel) -> tuple[tuple[str, ...], list[FieldError], list[JobWarning]]:
    """Return the formats to export, and what is known about the others.

    A format that the spec names is an error; one of the default formats is left out with a warning. ``student`` may be
    on the meta device.
    """
    failures = {name: failure for name in spec.export if (failure := _failure(name, student)) is not None}
    formats = tuple(name for name in spec.export if name not in failures)
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
