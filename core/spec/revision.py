"""Changes of a job's spec on retry, and the checkpoints that each change invalidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import FieldError, InvalidSpec
from core.reporting import STUDENT_TRACK, teacher_track
from core.spec.job import JobSpec
from core.spec.parse import parse_job_spec, pointer
from core.spec.patch import FieldPath, differences, merge_patch

CHANGEABLE = ("name", "metadata", "priority", "training", "teachers/K/training", "method", "export", "resources")

_METHOD: FieldPath = ("method", "name")
_MAY_CHANGE = {"name", "metadata", "priority", "training", "method", "export", "resources"}
# Fields without influence on a student's weights. The number of threads has one: it sets the order of sums.
_IRRELEVANT: tuple[FieldPath, ...] = (
    ("name",), ("metadata",), ("priority",), ("export",), ("resources", "max_seconds"),
    ("training", "checkpoint_every_epochs"), ("training", "keep_weights_every_epochs"),
)  # fmt: skip
# Fields outside a teacher's own block that its training depends on.
_SHARED_WITH_TEACHERS: tuple[FieldPath, ...] = (("resources", "threads"), ("resources", "accelerator"))


@dataclass(frozen=True, slots=True)
class RestartScope:
    """Trainings that have to restart: the student's, and those of the listed teachers."""

    student: bool
    teachers: tuple[int, ...] = ()

    @property
    def tracks(self) -> tuple[str, ...]:
        """Checkpoint tracks that are no longer valid."""
        return (*(teacher_track(index) for index in self.teachers), *((STUDENT_TRACK,) if self.student else ()))


def apply_patch(document: Mapping[str, Any], patch: Mapping[str, Any]) -> JobSpec:
    """Return a job's spec with a merge patch applied.

    Raises:
        InvalidSpec: The new spec is not valid, or changes a field that a retry may not change.
        NotAvailable: As :func:`parse_job_spec` raises it.
    """
    old = parse_job_spec(dict(document))
    merged = merge_patch(dict(document), patch)
    method = merged.get("method") if isinstance(merged, dict) else None
    if isinstance(method, dict) and method.get("name") != old.method.name:
        # Checked before parsing: the old method's parameters are invalid for another method.
        raise InvalidSpec.for_field("/method/name", _reason_unchangeable(_METHOD))
    new = parse_job_spec(merged)
    errors = [
        FieldError(pointer(path), _reason_unchangeable(path))
        for path in _differing_paths(old, new)
        if not _may_change(path, old)
    ]
    if errors:
        raise InvalidSpec.for_fields(errors)
    return new


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describe the differences between two specs, one text each: ``training.batch_size 128 → 64``."""
    texts = []
    for path in differences(old, new):
        name = ".".join(str(part) for part in path)
        before, after = _value(old, path), _value(new, path)
        is_scalar = not isinstance(before, dict | list) and not isinstance(after, dict | list)
        texts.append(f"{name} {_format(before)} → {_format(after)}" if is_scalar else name)
    return texts


def restart_scope(old: Mapping[str, Any], new: Mapping[str, Any]) -> RestartScope:
    """Return the trainings that restart when a job continues with another spec; both have all defaults filled in."""
    paths = [path for path in differences(old, new) if not _is_under(path, _IRRELEVANT)]
    shared = any(_is_under(path, _SHARED_WITH_TEACHERS) for path in paths)
    own = {path[1] for path in paths if path[0] == "teachers" and len(path) > 1}
    trained = [k for k, teacher in enumerate(new.get("teachers", ())) if teacher.get("weights") == "train"]
    return RestartScope(bool(paths), tuple(k for k in trained if shared or k in own))


def _differing_paths(old: JobSpec, new: JobSpec) -> list[FieldPath]:
    return list(differences(old.model_dump(mode="json"), new.model_dump(mode="json")))


def _may_change(path: FieldPath, old: JobSpec) -> bool:
    if path[0] == "teachers":
        return len(path) > 2 and path[2] == "training"
    if path[0] == "method" and path[1:2] in {(name,) for name in ("name", *old.method.datasets())}:
        return False
    return path[0] in _MAY_CHANGE


def _reason_unchangeable(path: FieldPath) -> str:
    reason = "a retry cannot change this; create a new job"
    if path == ("teachers",):
        reason = "a merge patch replaces a complete list: send all teachers of the job, and change only their training"
    return f"{reason}. A retry may change {', '.join(CHANGEABLE)}."


def _is_under(path: FieldPath, parents: tuple[FieldPath, ...]) -> bool:
    return any(path[: len(parent)] == parent for parent in parents)


def _value(document: Any, path: FieldPath) -> Any:
    for part in path:
        if isinstance(document, Mapping) and part not in document:
            return None
        document = document[part]
    return document


def _format(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
