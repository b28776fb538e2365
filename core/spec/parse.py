"""Parse a :class:`JobSpec`, with errors that name the field and a fix."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from core.errors import FieldError, InvalidSpec, NotAvailable, PotstillError
from core.spec.compression import COMPRESSION_STEPS, StepParams
from core.spec.compression.prune import PruningTarget
from core.spec.document import NOT_AVAILABLE, StrictModel
from core.spec.exports import EXPORT_FORMATS, NAME_TAG
from core.spec.field_messages import field_message, json_type
from core.spec.job import (
    ARCHITECTURE_MISSING,
    DISTILLATION_MISSING,
    WEIGHTS_NOT_DISTILLED,
    DistillationSpec,
    JobSpec,
    ResourcesSpec,
    StudentSpec,
    TeacherSpec,
)
from core.spec.methods import SELECTABLE
from core.spec.training import TeacherTrainingSpec, TrainingSpec

# A request body of 1 MB can have 100,000 wrong fields, and each reported error lists all known names.
MAX_FIELD_ERRORS = 100

# Errors that compare two fields, which pydantic reports at their object, and the field to change.
_COMPARED_FIELDS = {
    "teachers": "teachers",
    "export_names": "export",
    "compression": "compression",
    ARCHITECTURE_MISSING: "architecture",
    DISTILLATION_MISSING: "distillation",
    WEIGHTS_NOT_DISTILLED: "weights",
}
_TAGS = {"compression": {*COMPRESSION_STEPS}, "export": {NAME_TAG, *EXPORT_FORMATS}}  # of the entries of these lists

_EARLY_STOPPING_FIELDS = ("early_stopping", "early_stop", "early_stopping_patience", "patience")
_NO_EARLY_STOPPING = (
    "There is no early stopping: nothing is selected on the test split, and the learning rate ends only at the last "
    "step. Lower training.epochs, or end a running job with the action stop."
)

_NESTED: dict[str, type[StrictModel]] = {
    "student": StudentSpec,
    "teachers": TeacherSpec,
    "training": TrainingSpec,
    "resources": ResourcesSpec,
    "target": PruningTarget,
    "distillation": DistillationSpec,
}


def parse_job_spec(data: Any) -> JobSpec:
    """Validate a job spec. Raises :class:`InvalidSpec`, or :class:`NotAvailable` if that is the only problem."""
    try:
        return JobSpec.model_validate(data)
    except ValidationError as error:
        raise spec_error(error.errors(include_url=False)) from None


def spec_error(errors: Sequence[Mapping[str, Any]]) -> PotstillError:
    """Return pydantic's errors of a job spec as one error, with at most :data:`MAX_FIELD_ERRORS` fields."""
    found = [_field_error(error) for error in errors[:MAX_FIELD_ERRORS]]
    error_type = NotAvailable if all(error["type"] == NOT_AVAILABLE for error in errors) else InvalidSpec
    return error_type.for_fields(found, num_errors=len(errors))


def pointer(location: Iterable[str | int]) -> str:
    """Return the JSON Pointer (RFC 6901) of a location."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in location)


def nearest(word: str, known: Iterable[str], *, count: int = 3) -> tuple[str, ...]:
    """Return the known names that resemble ``word``, best match first."""
    return tuple(difflib.get_close_matches(word, list(known), n=count, cutoff=0.5))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean …?``, or an empty string if no name resembles ``word``."""
    names = nearest(word, known)
    return f" Did you mean {' or '.join(names)}?" if names else ""


def _field_error(error: Mapping[str, Any]) -> FieldError:
    location = _without_tag(error["loc"])
    where = pointer(location)
    match error["type"]:
        case "extra_forbidden":
            return FieldError(where, f"unknown field.{_unknown_field_hint(location, error['loc'])}")
        case "union_tag_invalid":
            return FieldError(f"{where}/name", _name_problem(location, error["input"].get("name")))
        case "union_tag_not_found":
            _, known = _known_names(location)
            return FieldError(f"{where}/name", f"name is missing. Known: {', '.join(known)}.")
        case "missing":
            description = _description(location, error["loc"])
            return FieldError(where, f"it is missing; {description}" if description else "it is missing")
        case kind if kind in _COMPARED_FIELDS:
            return FieldError(f"{where}/{_COMPARED_FIELDS[kind]}", str(error["msg"]))
    form = _object_form(location, error["input"]) if error["type"] in {"model_type", "model_attributes_type"} else ""
    return FieldError(where, field_message(error) + form)


def _known_names(location: Sequence[str | int]) -> tuple[str, Iterable[str]]:
    """Return what an object that is discriminated by its name is, and the names that exist."""
    return ("compression step", COMPRESSION_STEPS) if location[0] == "compression" else ("method", SELECTABLE)


def _name_problem(location: Sequence[str | int], name: Any) -> str:
    if not isinstance(name, str):
        return f"a string is expected, not {json_type(name)}"
    kind, known = _known_names(location)
    return f"there is no {kind} {name[:80]!r}.{did_you_mean(name, known)} Known: {', '.join(known)}."


def _object_form(location: Sequence[str | int], value: Any) -> str:
    """Return a hint with the form of a method, step, student or teacher; an empty string for other objects."""
    if location[-1:] == ("method",):
        form = {"name": value[:80] if isinstance(value, str) else "kd"}
    elif location[:1] == ("compression",) and len(location) == 2:
        form = {"name": value[:80] if isinstance(value, str) else "quantize"}
    elif location == ("student",) or location[-2:-1] == ("teachers",):
        form = {"architecture": value[:80] if isinstance(value, str) else "vit_tiny_patch16_224"}
    else:
        return ""
    return f"; write {json.dumps(form, ensure_ascii=False)}"


def _unknown_field_hint(location: Sequence[str | int], tagged: Sequence[str | int]) -> str:
    word, is_training = str(location[-1]), len(location) == 1 or "training" in location[:-1]
    if is_training and word in _EARLY_STOPPING_FIELDS:
        return f" {_NO_EARLY_STOPPING}"
    fields = _sibling_fields(location, tagged)
    return f"{did_you_mean(word, fields)} Known here: {', '.join(fields)}."


def _without_tag(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """Remove the tag that pydantic adds to the location of a discriminated union: method, compression step, export."""
    if len(location) > 2 and location[2] in _TAGS.get(str(location[0]), ()):
        return (*location[:2], *location[3:])
    at = _tag_index(location)
    return tuple(location) if at is None else (*location[:at], *location[at + 1 :])


def _tag_index(location: Sequence[str | int]) -> int | None:
    """Return the index of the tag, a method's name; None for a location outside of a method's parameters."""
    if "method" not in location:
        return None
    at = tuple(location).index("method") + 1
    return at if at < len(location) and location[at] in SELECTABLE else None


def _sibling_fields(location: Sequence[str | int], tagged: Sequence[str | int]) -> tuple[str, ...]:
    at = _tag_index(tagged)
    if at is not None:
        return tuple(SELECTABLE[str(tagged[at])].model_fields)
    parents = [part for part in location[:-1] if isinstance(part, str)]
    if not parents:
        return tuple(JobSpec.model_fields)
    if parents[0] == "compression":
        return tuple(_NESTED.get(parents[-1], _step_params(tagged)).model_fields)
    if parents[0] == "export":
        return tuple(EXPORT_FORMATS[str(tagged[2])].options.model_fields)
    if parents[-2:] == ["teachers", "training"]:
        return tuple(TeacherTrainingSpec.model_fields)
    return tuple(_NESTED[next(part for part in reversed(parents) if part in _NESTED)].model_fields)


def _step_params(tagged: Sequence[str | int]) -> type[StepParams]:
    """Return the parameters of a step; pydantic adds no tag where a single kind of step exists."""
    name = str(tagged[2]) if tagged[2] in COMPRESSION_STEPS else next(iter(COMPRESSION_STEPS))
    return COMPRESSION_STEPS[name].params


def _description(location: Sequence[str | int], tagged: Sequence[str | int]) -> str:
    """Description of a method's parameter; empty for other fields."""
    at = _tag_index(tagged)
    if at is None or len(tagged) != at + 2:
        return ""
    return _lower_first(SELECTABLE[str(tagged[at])].model_fields[str(location[-1])].description or "")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
