"""What a retry may change of a job's spec, and what of its checkpoints is then of no use any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import FieldError, InvalidSpec
from core.reporting import STUDENT_TRACK, teacher_track
from core.spec.job import JobSpec
from core.spec.parse import parse_job_spec, pointer
from core.spec.patch import Place, differences, merge_patch

CHANGEABLE = ("name", "metadata", "priority", "training", "teachers/K/training", "method", "export", "resources")

_METHOD: Place = ("method", "name")
_MAY_CHANGE = {"name", "metadata", "priority", "training", "method", "export", "resources"}
# No bit of a student depends on these; all else of a spec does, the number of threads included: sums take its order.
_WITHOUT_WEIGHT: tuple[Place, ...] = (
    ("name",), ("metadata",), ("priority",), ("export",), ("resources", "max_seconds"),
    ("training", "checkpoint_every_epochs"), ("training", "keep_weights_every_epochs"),
)  # fmt: skip
# Of these a teacher's training depends as well, beside its own block.
_OF_TEACHERS_TOO: tuple[Place, ...] = (("resources", "threads"), ("resources", "accelerator"))


@dataclass(frozen=True, slots=True)
class RestartScope:
    """What has to begin anew: the student's training, and those of these teachers."""

    student: bool
    teachers: tuple[int, ...] = ()

    @property
    def tracks(self) -> tuple[str, ...]:
        """The tracks of checkpoints that are of no use any more."""
        return (*(teacher_track(index) for index in self.teachers), *((STUDENT_TRACK,) if self.student else ()))


def apply_patch(document: Mapping[str, Any], patch: Mapping[str, Any]) -> JobSpec:
    """A job's spec with a merge patch applied: valid, and still of the same job.

    Raises ``InvalidSpec``, and ``NotAvailable`` as any spec does.
    """
    old = parse_job_spec(dict(document))
    merged = merge_patch(dict(document), patch)
    method = merged.get("method") if isinstance(merged, dict) else None
    if isinstance(method, dict) and method.get("name") != old.method.name:
        # Before its parameters are looked at: those of another method are none of this one's.
        raise InvalidSpec(f"/method/name: {_refusal(_METHOD)}", errors=[FieldError("/method/name", _refusal(_METHOD))])
    new = parse_job_spec(merged)
    errors = [FieldError(pointer(at), _refusal(at)) for at in _different(old, new) if not _may_change(at, old)]
    if errors:
        raise InvalidSpec("; ".join(f"{e.pointer}: {e.detail}" for e in errors[:3]), errors=errors)
    return new


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two specs differ in, in words: ``training.batch_size 128 → 64``."""
    told = []
    for at in differences(old, new):
        words = ".".join(str(part) for part in at)
        before, after = _value(old, at), _value(new, at)
        short = not isinstance(before, dict | list) and not isinstance(after, dict | list)
        told.append(f"{words} {_said(before)} → {_said(after)}" if short else words)
    return told


def restart(old: Mapping[str, Any], new: Mapping[str, Any]) -> RestartScope:
    """What begins anew where a job goes on with another spec. Both are documents, with all defaults filled in."""
    places = [at for at in differences(old, new) if not _is_under(at, _WITHOUT_WEIGHT)]
    shared = any(_is_under(at, _OF_TEACHERS_TOO) for at in places)
    own = {at[1] for at in places if at[0] == "teachers" and len(at) > 1}
    taught = [k for k, teacher in enumerate(new.get("teachers", ())) if teacher.get("weights") == "train"]
    return RestartScope(bool(places), tuple(k for k in taught if shared or k in own))


def _different(old: JobSpec, new: JobSpec) -> list[Place]:
    return list(differences(old.model_dump(mode="json"), new.model_dump(mode="json")))


def _may_change(at: Place, old: JobSpec) -> bool:
    if at[0] == "teachers":
        return len(at) > 2 and at[2] == "training"
    if at[0] == "method" and at[1:2] in {(name,) for name in ("name", *old.method.datasets())}:
        return False
    return at[0] in _MAY_CHANGE


def _refusal(at: Place) -> str:
    what = "a job keeps this; create a new job for another"
    if at == ("teachers",):
        what = "a merge patch replaces a list whole: send all of the job's teachers, with only their training changed"
    return f"{what}. A retry may change {', '.join(CHANGEABLE)}."


def _is_under(at: Place, places: tuple[Place, ...]) -> bool:
    return any(at[: len(place)] == place for place in places)


def _value(document: Any, at: Place) -> Any:
    for part in at:
        if isinstance(document, Mapping) and part not in document:
            return None
        document = document[part]
    return document


def _said(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
