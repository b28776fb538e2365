"""Chains: models of a job whose weights come from distillations of their own, which run before the job's.

Each such distillation is a job spec by itself (:func:`inner_job`), whose student is then a stored model of the outer
job: :func:`with_stored_models` replaces the distillation by a reference. A distillation of a chain may again contain
models with a distillation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.job_warnings import JobWarning
from core.spec.info import ModelInfo
from core.spec.job import DistillationSpec, JobSpec, ResourcesSpec, StudentSpec, TeacherSpec
from core.spec.references import DATASET_ARGUMENTS

_PREFIX = "distilled-"  # of a reference; no id of a stored model starts with it

STUDENT = "/student"


@dataclass(frozen=True, slots=True)
class DistilledModel:
    """A model whose weights are distilled in the job. ``pointer`` is that of the model in the spec of its job."""

    pointer: str
    model: StudentSpec | TeacherSpec
    distillation: DistillationSpec

    @property
    def track(self) -> str:
        """Start of the names of the tracks of its distillation: ``student`` or ``teacher-K``."""
        return self.pointer.removeprefix("/").replace("teachers/", "teacher-")


def distilled_models(spec: JobSpec) -> tuple[DistilledModel, ...]:
    """Return the models of a job, without those of inner jobs, whose weights are distilled in it; the student first."""
    models = {STUDENT: spec.student} | {f"/teachers/{index}": each for index, each in enumerate(spec.teachers)}
    return tuple(
        DistilledModel(pointer, model, model.distillation)
        for pointer, model in models.items()
        if model.distillation is not None
    )


def inner_job(spec: JobSpec, distilled: DistilledModel, *, image_size: int | None) -> JobSpec:
    """Return the job of a distillation: on the job's dataset, with one device, and random first weights.

    ``image_size`` applies where neither the distillation nor the model's arguments have a size.
    """
    training = distilled.distillation.training
    if training.image_size is None and distilled.model.arguments.get("img_size") is None:
        training = training.model_copy(update={"image_size": image_size})
    resources = ResourcesSpec(accelerator=spec.resources.accelerator, threads=spec.resources.threads)
    student = StudentSpec(
        architecture=distilled.model.architecture, arguments=distilled.model.arguments, weights="random"
    )
    return JobSpec(
        dataset=spec.dataset,
        unlabeled_dataset=spec.unlabeled_dataset,
        teachers=distilled.distillation.teachers,
        student=student,
        method=distilled.distillation.method,
        training=training,
        export=("safetensors",),
        resources=resources,
    )


def reference_of(job: JobSpec) -> str:
    """Return the reference of the student of a resolved inner job, a digest of its recipe without the dataset."""
    return f"{_PREFIX}{hashlib.sha256(json.dumps(recipe_fields(job), sort_keys=True).encode()).hexdigest()[:32]}"


def recipe_fields(job: JobSpec) -> dict[str, Any]:
    """Return the fields of a resolved inner job that the weights of its student depend on, as JSON.

    They depend on the datasets' content, the device and its threads, too.
    """
    ignored_training = {"checkpoint_every_epochs", "keep_weights_every_epochs"}
    return {
        "student": job.student.model_dump(mode="json", exclude={"distillation"}),
        "teachers": [teacher.model_dump(mode="json") for teacher in job.teachers],
        "method": job.method.model_dump(mode="json"),
        "training": job.training.model_dump(mode="json", exclude=ignored_training),
    }


def with_stored_models(spec: JobSpec, models: Mapping[str, tuple[str, ModelInfo]]) -> JobSpec:
    """Return the spec with references instead of distillations; ``models`` has reference and info by pointer.

    A teacher keeps the image size of its distillation; the job's student may have another than its first weights.
    """

    def stored(pointer: str) -> dict[str, Any]:
        reference, info = models[pointer]
        ignored = DATASET_ARGUMENTS if pointer == STUDENT else DATASET_ARGUMENTS - {"img_size"}
        arguments = {name: value for name, value in info.arguments.items() if name not in ignored}
        return {
            "weights": reference,
            "distillation": None,
            "architecture": info.architecture,
            "arguments": arguments,
        }

    student = spec.student.model_copy(update=stored(STUDENT)) if STUDENT in models else spec.student
    teachers = tuple(
        teacher.model_copy(update=stored(pointer)) if (pointer := f"/teachers/{k}") in models else teacher
        for k, teacher in enumerate(spec.teachers)
    )
    return spec.model_copy(update={"student": student, "teachers": teachers})


def with_distillations(spec: JobSpec, jobs: Mapping[str, JobSpec]) -> JobSpec:
    """Undo :func:`with_stored_models` in a resolved spec; ``jobs`` has the resolved inner jobs by pointer."""

    def distilled(job: JobSpec) -> dict[str, Any]:
        return {
            "weights": "distill",
            "distillation": DistillationSpec(teachers=job.teachers, method=job.method, training=job.training),
            "architecture": job.student.architecture,
            "arguments": job.student.arguments,
        }

    student = spec.student.model_copy(update=distilled(jobs[STUDENT])) if STUDENT in jobs else spec.student
    teachers = tuple(
        teacher.model_copy(update=distilled(jobs[pointer])) if (pointer := f"/teachers/{k}") in jobs else teacher
        for k, teacher in enumerate(spec.teachers)
    )
    return spec.model_copy(update={"student": student, "teachers": teachers})


def outer_pointer(at: str, pointer: str) -> str:
    """Return the pointer of a field of an inner job in the spec of the outer job; ``at`` points to the model there."""
    if pointer.startswith(STUDENT):
        return at + pointer.removeprefix(STUDENT)
    if pointer.startswith(("/teachers", "/method", "/training")):
        return f"{at}/distillation{pointer}"
    return pointer


def outer_warning(at: str, name: str, warning: JobWarning) -> JobWarning:
    """Return a warning of an inner job as one of the outer job; ``at`` points to the model ``name`` there."""
    field = None if warning.field is None else outer_pointer(at, warning.field)
    return warning.model_copy(update={"field": field, "message": f"distillation of {name}: {warning.message}"})
