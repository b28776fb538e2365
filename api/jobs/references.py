"""Names and id prefixes in a spec: the stored spec has the full id of each dataset, model and job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from core.errors import AmbiguousReference, FieldError, InvalidSpec, NotFound
from core.spec import JobSpec, MethodParams, ModelSpec
from core.spec.references import map_models
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
    references += [(f"{at}/weights", model.weights, find_weights) for at, model in spec.models().items()]
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


def _replace(spec: JobSpec, ids: Mapping[str, str]) -> JobSpec:
    def ids_of(pointer: str, model: ModelSpec) -> dict[str, Any]:
        update: dict[str, Any] = {"weights": ids[f"{pointer}/weights"]}
        if model.distillation is not None:
            method = _with_datasets(f"{pointer}/distillation", model.distillation.method, ids)
            update["distillation"] = model.distillation.model_copy(update={"method": method})
        return update

    update = {
        "dataset": ids["/dataset"],
        "unlabeled_dataset": ids.get("/unlabeled_dataset"),
        "method": _with_datasets("", spec.method, ids),
    }
    return map_models(spec.model_copy(update=update), ids_of)


def _with_datasets(at: str, method: MethodParams, ids: Mapping[str, str]) -> MethodParams:
    return method.model_copy(update={field: ids[f"{at}/method/{field}"] for field in method.datasets()})
