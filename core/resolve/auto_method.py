"""Replace the method ``auto`` by the first recommended method that a job's networks and dataset can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from core.errors import InvalidSpec
from core.models import catalog
from core.spec import METHODS, JobSpec, ModelSpec, TeacherSpec
from core.spec.info import DatasetInfo, ModelInfo
from core.spec.methods import Family
from core.spec.methods.auto import AutoParams
from core.spec.recommend import Situation, recommend

Resolved = TypeVar("Resolved")


def resolve_with_recommended(
    spec: JobSpec, dataset: DatasetInfo, models: Mapping[str, ModelInfo], *, resolve: Callable[[JobSpec], Resolved]
) -> Resolved:
    """Return the result of ``resolve`` for the first recommended method that it accepts.

    Raises:
        InvalidSpec: Nothing is recommended, or no recommended method is accepted; then with the first one's errors.
    """
    first_error: InvalidSpec | None = None
    for choice in recommend(situation_of(spec, dataset, models)):
        method = METHODS[choice.method["name"]].params.model_validate(choice.method)
        try:
            return resolve(spec.model_copy(update={"method": method}))
        except InvalidSpec as error:
            first_error = first_error or error
    if first_error is not None:
        raise first_error
    raise InvalidSpec.for_field(
        "/method/name", "auto finds no method without a teacher and without labels; add a teacher to teachers"
    )


def situation_of(spec: JobSpec, dataset: DatasetInfo, models: Mapping[str, ModelInfo]) -> Situation:
    """Return the situation that a method is chosen for. Several teachers count by the first."""
    assert isinstance(spec.method, AutoParams), "only auto is chosen"
    first = spec.teachers[0] if spec.teachers else None
    return Situation(
        teacher="none" if first is None else _family(first),
        student=_family(spec.student),
        num_images=max(1, dataset.num_train),
        labels=dataset.num_classes is not None,
        same_classes=first is None or _has_classes(first, dataset, models),
        num_teachers=max(1, len(spec.teachers)),
        compute=spec.method.compute,
    )


def _family(model: ModelSpec) -> Family:
    """Return the family; that of a CNN for an unknown name, which is reported when the model is planned."""
    try:
        return catalog.family(catalog.require(model.architecture or ""))
    except InvalidSpec:
        return "cnn"


def _has_classes(teacher: TeacherSpec, dataset: DatasetInfo, models: Mapping[str, ModelInfo]) -> bool:
    """Whether a teacher predicts the dataset's classes; any classes for a dataset without labels."""
    if teacher.is_trained:
        return True
    count: int | None
    if teacher.weights in models:
        count = models[teacher.weights].num_classes
    else:
        name = catalog.canonical_name(teacher.architecture_name)
        count = catalog.pretrained_info(name).num_classes if catalog.has_pretrained(name) else 0
    return count == dataset.num_classes if dataset.num_classes is not None else bool(count)
