"""Warnings about settings of a resolved spec that work but are probably not intended."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

from core.data.views import steps_per_epoch
from core.job_warnings import JobWarning
from core.models import catalog
from core.models.plan import ModelPlan
from core.resolve.class_names import comparable_names
from core.resolve.default_epochs import MIN_STEPS
from core.resolve.model_profile import has_drop_path, profile_plan
from core.spec import JobSpec
from core.spec.info import DatasetInfo, ModelInfo
from core.spec.teacher_names import teacher_subject

_MAX_ENLARGEMENT = 2  # image size relative to the dataset's: upscaled pixels cost time and hold no information
_MIN_TEACHER_SIZE = 0.8  # parameters relative to the student's
_NONCOMMERCIAL = re.compile(r"(^|[-_])nc([-_]|$)|non-?commercial|research|amlr")
_STANDARD_LICENSES = frozenset({"apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "mit"})


def spec_warnings(
    spec: JobSpec,
    dataset: DatasetInfo,
    models: Mapping[str, ModelInfo],
    student: ModelPlan,
    teachers: Sequence[ModelPlan],
    *,
    num_images: int,
) -> list[JobWarning]:
    """Return a warning for each setting of a resolved spec that works but is probably not intended.

    ``num_images`` is the number of training images.
    """
    warnings = [*_training_warnings(spec, dataset, student), *_step_warnings(spec, num_images)]
    for index, teacher in enumerate(teachers):
        warnings += _teacher_warnings(spec, index, teacher, student, dataset)
    return [*warnings, *_student_weight_warnings(spec, dataset, models), *_license_warnings(student, teachers, dataset)]


def _training_warnings(spec: JobSpec, dataset: DatasetInfo, student: ModelPlan) -> list[JobWarning]:
    warnings = []
    if spec.training.batch_size > dataset.num_train:
        warnings.append(
            JobWarning(
                code="batch_size_above_dataset",
                field="/training/batch_size",
                message=f"training.batch_size {spec.training.batch_size} is above the {dataset.num_train} training "
                "images: an epoch is one step",
                fix="lower batch_size",
            )
        )
    if student.image_size >= _MAX_ENLARGEMENT * dataset.image_size:
        warnings.append(
            JobWarning(
                code="images_enlarged",
                field="/training/image_size",
                message=f"the dataset's images of about {dataset.image_size} pixels a side are enlarged to "
                f"{student.image_size}",
                fix="set training.image_size if that is not intended",
            )
        )
    drop_path = spec.training.drop_path
    if drop_path > 0 and not has_drop_path(student.architecture, json.dumps(student.arguments, sort_keys=True)):
        message = f"{student.architecture} has no stochastic depth; training.drop_path has no effect"
        warnings.append(
            JobWarning(code="drop_path_unused", field="/training/drop_path", message=message, fix="set drop_path to 0")
        )
    return warnings


def _step_warnings(spec: JobSpec, num_images: int) -> list[JobWarning]:
    steps = steps_per_epoch(num_images, spec.training.batch_size)
    total = spec.training.num_epochs * steps
    if spec.student.weights != "random" or total >= MIN_STEPS:
        return []
    message = (
        f"the student starts from random weights and gets {total} optimizer steps; below about 1,000 it learns little"
    )
    fix = f"raise epochs to {math.ceil(MIN_STEPS / steps)}, or lower batch_size"
    return [JobWarning(code="few_steps", field="/training/epochs", message=message, fix=fix)]


def _teacher_warnings(
    spec: JobSpec, index: int, teacher: ModelPlan, student: ModelPlan, dataset: DatasetInfo
) -> list[JobWarning]:
    base, name = f"/teachers/{index}", teacher_subject(index, len(spec.teachers))
    warnings = []
    if spec.teachers[index].weights == "random":
        message = f"{name} has random weights: its outputs carry no information"
        fix = "use pretrained, train or a stored model"
        warnings.append(JobWarning(code="random_teacher", field=f"{base}/weights", message=message, fix=fix))
    if _names_differ(teacher.classes, dataset.classes):
        message = f"{name} has other class names than the dataset; classes are matched by their position"
        fix = "use a teacher made for these classes, or weights train"
        warnings.append(JobWarning(code="class_names_differ", field=f"{base}/weights", message=message, fix=fix))
    warnings += _image_warnings(base, name, teacher, student, dataset)
    own, others = profile_plan(teacher).parameters, profile_plan(student).parameters
    if own < _MIN_TEACHER_SIZE * others:
        message = f"{name} has {own:,} parameters, fewer than the student's {others:,}"
        fix = "use a larger teacher or a smaller student, unless the teacher is more accurate"
        warnings.append(JobWarning(code="teacher_smaller", field=f"{base}/architecture", message=message, fix=fix))
    return warnings


def _image_warnings(
    base: str, name: str, teacher: ModelPlan, student: ModelPlan, dataset: DatasetInfo
) -> list[JobWarning]:
    """Warn about images that a teacher sees otherwise than those it was made for."""
    warnings = []
    if (dataset.channels, teacher.channels) == (1, 3):
        message = f"{name} was made for color images, and the dataset's are gray: it sees three equal channels"
        warnings.append(
            JobWarning(code="gray_images", field=f"{base}/weights", message=message, fix="use weights train")
        )
    if (dataset.channels, teacher.channels) == (3, 1):
        message = f"{name} was made for gray images: it sees the dataset's without color"
        warnings.append(
            JobWarning(code="color_lost", field=f"{base}/weights", message=message, fix="use weights train")
        )
    limit = _MAX_ENLARGEMENT * dataset.image_size
    if teacher.image_size >= limit and (teacher.image_size > student.image_size or student.image_size < limit):
        message = (
            f"the dataset's images of about {dataset.image_size} pixels a side are enlarged to {teacher.image_size} "
            f"for {name}"
        )
        fix = "use a teacher made for smaller images"
        warnings.append(JobWarning(code="images_enlarged", field=base, message=message, fix=fix))
    return warnings


def _student_weight_warnings(spec: JobSpec, dataset: DatasetInfo, models: Mapping[str, ModelInfo]) -> list[JobWarning]:
    stored = models.get(spec.student.weights)
    if stored is None or dataset.num_classes is None:
        return []
    field = "/student/weights"
    if stored.num_classes != dataset.num_classes:
        message = (
            f"the student's weights are for {stored.num_classes} classes: its head starts at random for "
            f"{dataset.num_classes}"
        )
        return [JobWarning(code="head_reinitialized", field=field, message=message)]
    if _names_differ(stored.classes, dataset.classes):
        message = "the student's weights have other class names than the dataset: its head starts with those classes"
        return [JobWarning(code="class_names_differ", field=field, message=message)]
    return []


def _license_warnings(student: ModelPlan, teachers: Sequence[ModelPlan], dataset: DatasetInfo) -> list[JobWarning]:
    """Warn about pretrained weights and data whose license forbids commercial use or has terms of its own.

    It may bind the student too, which learns from them.
    """
    plans = {"/student/weights": student.base or student}
    plans |= {f"/teachers/{index}/weights": teacher for index, teacher in enumerate(teachers)}
    licensed = [
        (field, plan.weights.name, catalog.license(plan.weights.name), "weights")
        for field, plan in plans.items()
        if plan.weights.kind == "pretrained"
    ]
    licensed.append(("/dataset", "the dataset", dataset.license, "data"))
    warnings = []
    for field, name, terms, kind in licensed:
        if terms is None or terms in _STANDARD_LICENSES:
            continue
        if _NONCOMMERCIAL.search(terms):
            message = f"the license of {name} is {terms}: it forbids commercial use, perhaps of the student too"
            fix = f"use other {kind} if the student is for commercial use"
            warnings.append(JobWarning(code="noncommercial_license", field=field, message=message, fix=fix))
        else:
            message = f"the license of {name} is {terms}: it has terms of its own, perhaps for the student too"
            fix = "read it before you publish or sell the student"
            warnings.append(JobWarning(code="custom_license", field=field, message=message, fix=fix))
    return warnings


def _names_differ(own: Sequence[str] | None, classes: Sequence[str] | None) -> bool:
    return bool(own and classes) and comparable_names(own or ()) != comparable_names(classes or ())
