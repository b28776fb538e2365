"""Resolve chains: the distillations that give models of a job their weights, before the job itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from core.errors import FieldError, InvalidSpec
from core.job_warnings import JobWarning
from core.models.plan import ModelPlan, model_inputs, plan_student
from core.resolve.model_profile import profile_plan
from core.spec import JobSpec
from core.spec.chain import (
    STUDENT,
    DistilledModel,
    distilled_models,
    inner_job,
    outer_pointer,
    outer_warning,
    reference_of,
    with_distillations,
    with_stored_models,
)
from core.spec.info import DatasetInfo, ModelInfo, Normalization
from core.spec.teacher_names import model_name


@dataclass(frozen=True, slots=True)
class InnerResolution:
    """A resolved inner job, its estimate, and the plan of the model that it exports."""

    spec: JobSpec
    estimate: dict[str, Any]
    student: ModelPlan


@dataclass(frozen=True, slots=True)
class ResolvedChain:
    """The resolved inner jobs of a spec, by pointer of their model.

    ``spec`` has references instead of distillations, and ``models`` their infos by reference.
    """

    spec: JobSpec
    inner: Mapping[str, InnerResolution]
    models: Mapping[str, ModelInfo]

    def complete(self, spec: JobSpec) -> JobSpec:
        """Return the resolved outer spec with its resolved distillations."""
        return with_distillations(spec, {at: inner.spec for at, inner in self.inner.items()})

    def add_to(self, estimate: dict[str, Any]) -> dict[str, Any]:
        """Return an estimate with the costs and warnings of the inner jobs."""
        inner = {at: resolution.estimate for at, resolution in self.inner.items()}
        distillations = [
            {
                "model": at,
                "method": self.inner[at].spec.method.name,
                **{name: own[name] for name in ("epochs", "total_steps", "seconds", "teachers")},
            }
            for at, own in inner.items()
        ]
        for at, own in inner.items():
            distillations += [{**d, "model": outer_pointer(at, d["model"])} for d in own["distillations"]]
        names = {at: model_name(at, len(self.spec.teachers)) for at in inner}
        warnings = [
            outer_warning(at, names[at], JobWarning.model_validate(warning)).model_dump(mode="json")
            for at, own in inner.items()
            for warning in own["warnings"]
        ]
        return {
            **estimate,
            "seconds": round(estimate["seconds"] + sum(own["seconds"] for own in inner.values()), 1),
            "memory_bytes": max(estimate["memory_bytes"], *(own["memory_bytes"] for own in inner.values()), 0),
            "distillations": distillations,
            "warnings": [*warnings, *estimate["warnings"]],
        }


def resolve_chain(
    spec: JobSpec,
    dataset: DatasetInfo,
    models: Mapping[str, ModelInfo],
    *,
    resolve: Callable[[JobSpec], InnerResolution],
) -> ResolvedChain:
    """Resolve the inner jobs of a spec with ``resolve``, and replace them by references.

    Raises:
        InvalidSpec: With pointers of the outer spec.
    """
    inner: dict[str, InnerResolution] = {}
    found: dict[str, tuple[str, ModelInfo]] = {}
    errors: list[FieldError] = []
    for distilled in distilled_models(spec):
        with _outer_errors(distilled, errors):
            size = _student_size(spec, dataset, {**models, **dict(found.values())}, found)
            resolution = resolve(inner_job(spec, distilled, image_size=size))
            inner[distilled.pointer] = resolution
            found[distilled.pointer] = reference_of(resolution.spec), _model_info(resolution, dataset)
    if errors:
        raise InvalidSpec.for_fields(errors)
    return ResolvedChain(with_stored_models(spec, found), inner, dict(found.values()))


@contextmanager
def _outer_errors(distilled: DistilledModel, errors: list[FieldError]) -> Iterator[None]:
    """Collect the errors of the block, an inner job's, with pointers of the outer spec."""
    try:
        yield
    except InvalidSpec as error:
        fields = error.errors or (FieldError(STUDENT, error.detail),)
        errors += [FieldError(outer_pointer(distilled.pointer, each.pointer), each.detail) for each in fields]


def _student_size(
    spec: JobSpec, dataset: DatasetInfo, models: Mapping[str, ModelInfo], found: Mapping[str, tuple[str, ModelInfo]]
) -> int | None:
    """Return the image size of the job's student, which its distilled teachers take as their default.

    None for a student whose own weights are distilled next: its first size is its own or the dataset's.
    """
    if spec.training.image_size is not None:
        return spec.training.image_size
    if spec.student.distillation is not None and STUDENT not in found:
        return None
    stored = with_stored_models(spec, {STUDENT: found[STUDENT]}) if STUDENT in found else spec
    if stored.student.architecture is None:
        return None  # the weights do not exist, which is reported later
    try:
        inputs = model_inputs(stored, dataset.input_info(), models=models)
        return plan_student(stored.student, inputs, models=models).image_size
    except InvalidSpec:
        return None  # reported where the student itself is planned


def _model_info(resolution: InnerResolution, dataset: DatasetInfo) -> ModelInfo:
    """Return the info of the model that an inner job exports, as if it were stored."""
    plan, profile = resolution.student, profile_plan(resolution.student)
    preprocessing = plan.preprocessing
    return ModelInfo(
        architecture=plan.architecture,
        arguments=plan.arguments,
        num_classes=plan.num_classes,
        channels=plan.channels,
        image_size=plan.image_size,
        parameters=profile.parameters,
        size_bytes=profile.size_bytes,
        classes=dataset.classes if plan.num_classes == dataset.num_classes else None,
        normalization=Normalization(mean=preprocessing.mean, std=preprocessing.std),
    )
