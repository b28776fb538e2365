"""Changes of a job's spec on retry, and the checkpoints that each change invalidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import FieldError, InvalidSpec
from core.reporting import BASELINE_TRACK, STUDENT_TRACK, compressed_track, compression_track, untuned_track
from core.spec.job import WEIGHT_KEYWORDS, JobSpec, ModelSpec
from core.spec.parse import parse_job_spec, pointer
from core.spec.patch import FieldPath, differences, merge_patch
from core.spec.training import default_min_learning_rate

CHANGEABLE = (
    "name", "metadata", "priority", "training", "teachers/K/training", "method", "baseline", "export", "resources",
    "student/weights", "teachers/K/weights", "student/distillation/training", "teachers/K/distillation/training",
)  # fmt: skip
"""Fields that a retry may change; weights only if they are no stored model, before and after."""

_METHOD: FieldPath = ("method", "name")
_MAY_CHANGE = {"name", "metadata", "priority", "training", "method", "baseline", "export", "resources"}
# Fields without influence on a student's weights. The number of threads has one: it sets the order of sums.
_IRRELEVANT: tuple[FieldPath, ...] = (
    ("name",), ("metadata",), ("priority",), ("baseline",), ("export",), ("resources", "max_seconds"),
    ("training", "checkpoint_every_epochs"), ("training", "keep_weights_every_epochs"),
)  # fmt: skip
# Fields outside a teacher's own block that its training depends on.
_SHARED_WITH_TEACHERS: tuple[FieldPath, ...] = (("resources", "threads"), ("resources", "accelerator"))
_STEP_TRACKS = (compression_track, untuned_track, compressed_track)


@dataclass(frozen=True, slots=True)
class RestartScope:
    """Trainings that have to restart: the student's with its baseline, and the tracks of other models.

    ``baseline`` tells whether the job has one; ``num_steps`` is the number of its compression steps.
    """

    student: bool
    others: tuple[str, ...] = ()
    baseline: bool = False
    num_steps: int = 0

    @property
    def tracks(self) -> tuple[str, ...]:
        """Checkpoint tracks that are no longer valid."""
        if not self.student:
            return self.others
        baseline = (BASELINE_TRACK,) if self.baseline else ()
        steps = (track(index) for index in range(self.num_steps) for track in _STEP_TRACKS)
        return (*self.others, STUDENT_TRACK, *baseline, *steps)


def apply_patch(document: Mapping[str, Any], patch: Mapping[str, Any]) -> JobSpec:
    """Return a job's spec with a merge patch applied.

    Raises:
        InvalidSpec: The new spec is not valid, or changes a field that a retry may not change.
        NotAvailable: As :func:`parse_job_spec` raises it.
    """
    old = parse_job_spec(dict(document))
    merged = _follow_learning_rates(merge_patch(dict(document), patch), document, patch)
    method = merged.get("method") if isinstance(merged, dict) else None
    if isinstance(method, dict) and method.get("name") != old.method.name:
        # Checked before parsing: the old method's parameters are invalid for another method.
        raise InvalidSpec.for_field("/method/name", _reason_unchangeable(_METHOD))
    new = parse_job_spec(merged)
    errors = [
        FieldError(pointer(path), _reason_unchangeable(path))
        for path in _differing_paths(old, new)
        if not _may_change(path, old, new)
    ]
    if errors:
        raise InvalidSpec.for_fields(errors)
    return new


def _follow_learning_rates(merged: Any, old: Mapping[str, Any], patch: Mapping[str, Any]) -> Any:
    """Remove each ``min_learning_rate`` that is the old default, where the patch changes only ``learning_rate``.

    A stored spec has its defaults filled in, so without this a lower rate would contradict a rate that nobody set.
    """
    if not isinstance(merged, dict):
        return merged
    result = dict(merged)
    if "min_learning_rate" not in _object(_object(patch).get("training")):
        result["training"] = _follow_learning_rate(merged.get("training"), _object(old.get("training")))
    teachers, old_teachers = merged.get("teachers"), old.get("teachers", ())
    if isinstance(teachers, list) and len(teachers) == len(old_teachers):
        # A patch replaces the complete list: the teachers that a client sends have the stored values.
        result["teachers"] = [_follow_in_model(new, before) for new, before in zip(teachers, old_teachers, strict=True)]
    return result


def _follow_in_model(new: Any, before: Any) -> Any:
    """Remove the defaults of ``min_learning_rate`` that a teacher, and the teachers that it learns from, repeat."""
    if not isinstance(new, dict):
        return new
    result, old = dict(new), _object(before)
    if result.get("training") is not None:
        result["training"] = _follow_learning_rate(result["training"], _object(old.get("training")))
    if isinstance(result.get("distillation"), dict):
        result["distillation"] = _follow_learning_rates(result["distillation"], _object(old.get("distillation")), {})
    return result


def _follow_learning_rate(training: Any, old: Mapping[str, Any]) -> Any:
    name = "min_learning_rate"
    if not isinstance(training, dict) or name not in old or training.get(name) != old[name]:
        return training
    is_default = old[name] == default_min_learning_rate(old["learning_rate"])
    if is_default and training.get("learning_rate") != old["learning_rate"]:
        return {key: value for key, value in training.items() if key != name}
    return training


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


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
    models: dict[FieldPath, Mapping[str, Any]] = {("student",): new.get("student", {})}
    models |= {("teachers", k): teacher for k, teacher in enumerate(new.get("teachers", ()))}
    restarting = [
        track
        for place, model in models.items()
        if shared or _changes_inside(paths, tuple(map(str, place)))
        for track in _tracks("-".join(map(str, place)).replace("teachers", "teacher"), model)
    ]
    has_baseline = bool(old.get("baseline") or new.get("baseline"))
    num_steps = len(new.get("compression", ()))
    return RestartScope(bool(paths), tuple(restarting), baseline=has_baseline, num_steps=num_steps)


def _changes_inside(paths: Sequence[FieldPath], place: tuple[str, ...]) -> bool:
    return any(tuple(map(str, path[: len(place)])) == place for path in paths)


def _tracks(name: str, model: Mapping[str, Any]) -> Iterator[str]:
    """Return the tracks that train a model of a spec before the job's student, and the models that it learns from."""
    distillation = model.get("distillation")
    if distillation:
        yield f"{name}-{STUDENT_TRACK}"
        for k, teacher in enumerate(distillation.get("teachers", ())):
            yield from _tracks(f"{name}-teacher-{k}", teacher)
    if model.get("weights") == "train" or model.get("training") is not None:
        yield name


def trains_models(spec: Mapping[str, Any]) -> bool:
    """Return whether a job trains a model before its student; the spec is JSON, of this version or an earlier one."""
    return any(
        model.get("weights") in {"train", "distill"} or model.get("training") is not None
        for model in (spec.get("student") or {}, *(spec.get("teachers") or ()))
    )


def _differing_paths(old: JobSpec, new: JobSpec) -> list[FieldPath]:
    return list(differences(old.model_dump(mode="json"), new.model_dump(mode="json")))


def _may_change(path: FieldPath, old: JobSpec, new: JobSpec) -> bool:
    if "distillation" in path:
        return "training" in path[path.index("distillation") :]
    if path == ("student", "weights"):
        return not _have_references(old.student, new.student)
    if path[0] == "teachers" and len(path) == 3 and path[2] == "weights":
        return not _have_references(old.teachers[int(path[1])], new.teachers[int(path[1])])
    if path[0] == "teachers":
        return len(path) > 2 and path[2] == "training"
    if path[0] == "method" and path[1:2] in {(name,) for name in ("name", *old.method.datasets())}:
        return False
    return path[0] in _MAY_CHANGE


def _have_references(*models: ModelSpec) -> bool:
    return any(model.weights not in WEIGHT_KEYWORDS for model in models)


def _reason_unchangeable(path: FieldPath) -> str:
    reason = "a retry cannot change this; create a new job"
    if path == ("teachers",):
        reason = (
            "a merge patch replaces a complete list: send all teachers of the job, and change only their training or "
            "weights"
        )
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
