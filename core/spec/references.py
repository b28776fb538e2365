"""Complete a job spec from the stored models that it refers to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from core.spec.info import ModelInfo
from core.spec.job import JobSpec, ModelSpec

DATASET_ARGUMENTS = frozenset({"num_classes", "in_chans", "img_size"})
"""Arguments that follow from the dataset; a spec does not inherit them from its weights."""

Spec = TypeVar("Spec", bound=ModelSpec)


def complete_references(spec: JobSpec, models: Mapping[str, ModelInfo]) -> JobSpec:
    """Fill in architecture and arguments of each student and teacher whose weights are a stored model.

    ``models`` has the stored models by reference; a model that is missing there leaves the spec unchanged. Values of
    the spec are never replaced: the resolver compares them with the model.
    """
    teachers = tuple(_completed(teacher, models) for teacher in spec.teachers)
    return spec.model_copy(update={"student": _completed(spec.student, models), "teachers": teachers})


def _completed(spec: Spec, models: Mapping[str, ModelInfo]) -> Spec:
    stored = models.get(spec.weights)
    if stored is None:
        return spec
    architecture = spec.architecture or stored.architecture
    return spec.model_copy(update={"architecture": architecture, "arguments": inherited_arguments(spec, stored)})


def inherited_arguments(spec: ModelSpec, stored: ModelInfo) -> dict[str, Any]:
    """Return the arguments of a spec, completed by those of its stored model; null is an omitted argument."""
    inherited = {name: value for name, value in stored.arguments.items() if name not in DATASET_ARGUMENTS}
    return inherited | {name: value for name, value in spec.arguments.items() if value is not None}
