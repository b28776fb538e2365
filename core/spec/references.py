"""Complete a job spec from the stored models that it refers to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from core.spec.info import ModelInfo
from core.spec.job import JobSpec, ModelSpec, TeacherSpec

DATASET_ARGUMENTS = frozenset({"num_classes", "in_chans", "img_size"})
"""Arguments that follow from the dataset; a spec does not inherit them from its weights."""

Spec = TypeVar("Spec", bound=ModelSpec)
Update = Callable[[str, ModelSpec], dict[str, Any]]


def complete_references(spec: JobSpec, models: Mapping[str, ModelInfo]) -> JobSpec:
    """Fill in architecture and arguments of each student and teacher whose weights are a stored model.

    ``models`` has the stored models by reference; a model that is missing there leaves the spec unchanged. Values of
    the spec are never replaced: the resolver compares them with the model.
    """
    return map_models(spec, lambda _, model: _completion(model, models))


def map_models(spec: JobSpec, update: Update) -> JobSpec:
    """Return the spec with the fields ``update(pointer, model)`` of each model replaced, in distillations too."""
    teachers = _map_teachers("", spec.teachers, update)
    return spec.model_copy(update={"student": _map_model("/student", spec.student, update), "teachers": teachers})


def _map_model(pointer: str, model: Spec, update: Update) -> Spec:
    new = model.model_copy(update=update(pointer, model))
    inner = new.distillation
    if inner is None:
        return new
    teachers = _map_teachers(f"{pointer}/distillation", inner.teachers, update)
    return new.model_copy(update={"distillation": inner.model_copy(update={"teachers": teachers})})


def _map_teachers(at: str, teachers: tuple[TeacherSpec, ...], update: Update) -> tuple[TeacherSpec, ...]:
    return tuple(_map_model(f"{at}/teachers/{k}", teacher, update) for k, teacher in enumerate(teachers))


def _completion(spec: ModelSpec, models: Mapping[str, ModelInfo]) -> dict[str, Any]:
    stored = models.get(spec.weights)
    if stored is None:
        return {}
    architecture = spec.architecture or stored.architecture
    return {"architecture": architecture, "arguments": inherited_arguments(spec, stored)}


def inherited_arguments(spec: ModelSpec, stored: ModelInfo) -> dict[str, Any]:
    """Return the arguments of a spec, completed by those of its stored model; null is an omitted argument."""
    inherited = {name: value for name, value in stored.arguments.items() if name not in DATASET_ARGUMENTS}
    return inherited | {name: value for name, value in spec.arguments.items() if value is not None}
