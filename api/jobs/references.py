"""Names and id prefixes in a spec: the stored spec has the full id of each dataset, model and job."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from core.errors import AmbiguousReference, FieldError, InvalidSpec, NotFound
from core.spec import JobSpec
from core.store import names
from core.store.db import Session

Find = Callable[[str], str]


def with_full_ids(session: Session, project_id: str, spec: JobSpec) -> JobSpec:
    """Return the spec with the full id of each dataset, model and job that it refers to.

    Raises :class:`InvalidSpec` that names each field without a match, and :class:`AmbiguousReference` for the first
    field with several matches.
    """
    find_dataset: Find = partial(names.find_id, session, project_id, "dataset")
    find_weights: Find = partial(names.find_weights, session, project_id)
    found: dict[str, str] = {}
    errors: list[FieldError] = []
    ambiguous: list[AmbiguousReference] = []
    references = [(at, text, find_dataset) for at, text in spec.datasets().items()]
    references.append(("/student/weights", spec.student.weights, find_weights))
    references += [(f"/teachers/{k}/weights", each.weights, find_weights) for k, each in enumerate(spec.teachers)]
    for at, text, find in references:
        try:
            found[at] = find(text)
        except NotFound as error:
            errors.append(FieldError(at, error.detail))
        except AmbiguousReference as error:
            field = FieldError(at, error.detail)
            ambiguous.append(AmbiguousReference(f"{at}: {error.detail}", errors=[field], extra=error.extra))
    if errors:
        raise InvalidSpec.for_fields(errors)
    if ambiguous:
        raise ambiguous[0]
    return _replace(spec, found)


def _replace(spec: JobSpec, ids: dict[str, str]) -> JobSpec:
    method = {field: ids[f"/method/{field}"] for field in spec.method.datasets()}
    return spec.model_copy(
        update={
            "dataset": ids["/dataset"],
            "method": spec.method.model_copy(update=method),
            "student": spec.student.model_copy(update={"weights": ids["/student/weights"]}),
            "teachers": tuple(
                teacher.model_copy(update={"weights": ids[f"/teachers/{k}/weights"]})
                for k, teacher in enumerate(spec.teachers)
            ),
        }
    )
