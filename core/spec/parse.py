"""From what somebody sent to a :class:`JobSpec`, with errors that say where and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from core.errors import FieldError, InvalidSpec, NotAvailable, PotstillError
from core.spec.document import NOT_AVAILABLE, StrictModel
from core.spec.job import JobSpec, ResourcesSpec, StudentSpec, TeacherSpec, TeacherTrainingSpec, TrainingSpec
from core.spec.methods import METHODS

# Of wrong fields, of which a body of a megabyte can have a hundred thousand: each is compared with what is known, and
# the answer says all that is known beside each.
MOST_NAMED = 100

_NESTED: dict[str, type[StrictModel]] = {
    "student": StudentSpec,
    "teachers": TeacherSpec,
    "training": TrainingSpec,
    "resources": ResourcesSpec,
}


def parse_job_spec(data: Any) -> JobSpec:
    """Validate a job spec. Raises :class:`InvalidSpec`, or :class:`NotAvailable` if that is all there is."""
    try:
        return JobSpec.model_validate(data)
    except ValidationError as error:
        raise spec_error(error.errors(include_url=False)) from None


def spec_error(errors: Sequence[Mapping[str, Any]]) -> PotstillError:
    """The one error that says what is wrong with a job spec: everything, if that is not more than anybody reads."""
    found = [_field_error(error) for error in errors[:MOST_NAMED]]
    summary = summary_of(found, num_wrong=len(errors))
    if all(error["type"] == NOT_AVAILABLE for error in errors):
        return NotAvailable(summary, errors=found)
    return InvalidSpec(summary, errors=found)


def summary_of(found: Sequence[FieldError], *, num_wrong: int) -> str:
    """The first of many wrong fields in a line, and how many there are besides."""
    summary = "; ".join(f"{e.pointer or '/'}: {e.detail}" for e in found[:3])
    return f"{summary}; and {num_wrong - 3} more" if num_wrong > 3 else summary


def pointer(location: Iterable[str | int]) -> str:
    """An RFC 6901 pointer."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in location)


def nearest(word: str, known: Iterable[str], *, count: int = 3) -> tuple[str, ...]:
    """The names that were probably meant, best first."""
    return tuple(difflib.get_close_matches(word, list(known), n=count, cutoff=0.5))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean …?``, or nothing where no name is near."""
    names = nearest(word, known)
    return f" Did you mean {' or '.join(names)}?" if names else ""


def _field_error(error: Mapping[str, Any]) -> FieldError:
    location = _without_tag(error["loc"])
    where = pointer(location)
    match error["type"]:
        case "extra_forbidden":
            fields = _fields_beside(location, error["loc"])
            word = str(location[-1])
            return FieldError(where, f"unknown field.{did_you_mean(word, fields)} Known here: {', '.join(fields)}.")
        case "union_tag_invalid":
            word = str(error["ctx"]["tag"])
            return FieldError(
                f"{where}/name",
                f"there is no method {word[:80]!r}.{did_you_mean(word, METHODS)} Known: {', '.join(METHODS)}.",
            )
        case "union_tag_not_found":
            return FieldError(f"{where}/name", f"name is missing. Known: {', '.join(METHODS)}.")
        case "missing":
            what = _description(location, error["loc"])
            return FieldError(where, f"it is missing; {what}" if what else "it is missing")
        case "teachers":  # found by comparing two fields, so pydantic places it at the root
            return FieldError("/teachers", str(error["msg"]))
        case _:
            return FieldError(where, _lower_first(str(error["msg"])))


def _without_tag(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """Drop the tag that pydantic puts behind ``method`` in a discriminated union's location."""
    if len(location) > 1 and location[0] == "method" and location[1] in METHODS:
        return ("method", *location[2:])
    return tuple(location)


def _fields_beside(location: Sequence[str | int], tagged: Sequence[str | int]) -> tuple[str, ...]:
    parents = [part for part in location[:-1] if isinstance(part, str)]
    if not parents:
        return tuple(JobSpec.model_fields)
    if parents[0] == "method":
        return tuple(METHODS[str(tagged[1])].params.model_fields)
    if parents[:2] == ["teachers", "training"]:
        return tuple(TeacherTrainingSpec.model_fields)
    return tuple(_NESTED[parents[0]].model_fields)


def _description(location: Sequence[str | int], tagged: Sequence[str | int]) -> str:
    """What the parameters of a method say of a field; empty for anything else."""
    if len(location) != 2 or location[0] != "method":
        return ""
    return _lower_first(METHODS[str(tagged[1])].params.model_fields[str(location[1])].description or "")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
