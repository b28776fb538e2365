"""Resolve a job spec: fill in every default, check that its parts work together, and estimate its cost.

Teachers, student, dataset and method are combined on the meta device, so no weights are allocated. Every problem is
reported with a pointer into the spec and a fix, before the job is queued.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from core.errors import FieldError, InvalidSpec
from core.methods import Method, MethodContext, build_method, plan_student_variant
from core.models import catalog
from core.models.built import BuiltModel
from core.models.matched_size import matched_image_size
from core.models.meta_device import on_meta, shared_on_meta
from core.models.plan import ModelPlan, class_mismatch, model_inputs, plan_student, plan_teacher
from core.models.preprocessing import plain_preprocessing
from core.models.structure import inspect_structure
from core.resolve.auto_method import resolve_with_recommended
from core.resolve.balance_checks import balance_errors
from core.resolve.build_errors import at_size_field
from core.resolve.chain import InnerResolution, resolve_chain
from core.resolve.class_names import misplaced_class
from core.resolve.compression_checks import check_steps
from core.resolve.dataset_checks import dataset_errors, further_dataset_errors, prepared_images_errors
from core.resolve.default_epochs import with_epochs
from core.resolve.device_checks import accumulation_errors, device_errors, device_warnings
from core.resolve.epoch_checks import epoch_errors
from core.resolve.estimate import estimate_job, job_memory
from core.resolve.evaluation_checks import evaluation_errors, evaluation_warnings
from core.resolve.export_checks import check_formats
from core.resolve.image_costs import estimated_decode_size
from core.resolve.image_counts import ImageCounts
from core.resolve.memory_check import fitting_batch_size, memory_warnings
from core.resolve.model_profile import profile_plan
from core.resolve.spec_warnings import spec_warnings
from core.spec import JobSpec, ModelSpec, TeacherSpec, TeacherTrainingSpec
from core.spec.exports import ExportEntry
from core.spec.info import DatasetInfo, ModelInfo
from core.spec.methods import Family
from core.spec.references import Spec, complete_references

_EXAMPLES: dict[Family, str] = {
    "transformer": "a vit_* or deit_*",
    "cnn": "a resnet* or convnext_*",
    "hybrid": "a levit_* or mobilevit_*",
    "mlp": "a mixer_*",
}


@dataclass(frozen=True, slots=True)
class Resolution:
    """A spec with every default filled in, and the response of ``POST /v1/estimates``.

    ``student`` is the plan of the exported model. ``fitting_batch_size`` is the largest batch size of the student's
    training, up to the spec's, that fits into the memory of the workers; 0 if none does, None if it is unknown.
    """

    spec: JobSpec
    estimate: dict[str, Any]
    student: ModelPlan
    fitting_batch_size: int | None = None


@dataclass(slots=True)
class _ErrorCollector:
    """Errors of a spec; all parts are checked before any error is raised."""

    errors: list[FieldError] = field(default_factory=list)

    def collect(self, base: str, plan: Callable[[], ModelPlan]) -> ModelPlan | None:
        """Return the result of ``plan``, or None and record its errors, with pointers below ``base``."""
        try:
            return plan()
        except InvalidSpec as error:
            for e in error.errors or (FieldError("/arguments", error.detail),):
                is_absolute = e.pointer.startswith((base, "/training", "/dataset", "/method", "/teachers"))
                self.errors.append(e if is_absolute else FieldError(f"{base}{e.pointer}", e.detail))
            return None

    def raise_if_any(self) -> None:
        """Raise InvalidSpec with all errors, if there are any."""
        if self.errors:
            raise InvalidSpec.for_fields(self.errors)


def resolve(
    spec: JobSpec,
    dataset: DatasetInfo,
    models: Mapping[str, ModelInfo],
    *,
    threads: int,
    datasets: Mapping[str, DatasetInfo] = MappingProxyType({}),
    memory_bytes: int | None = None,
) -> Resolution:
    """Fill in the defaults of ``spec`` and check that its parts work together.

    ``models`` has the info of every ``mdl_…`` and ``job_…`` that the spec refers to, ``datasets`` that of the
    further datasets that it reads. ``threads`` is the default number of threads of a job,
    ``memory_bytes`` the memory of its workers, None if unknown. Resolving a resolved spec changes nothing.

    Raises:
        InvalidSpec: With one ``FieldError`` for each problem.
    """
    spec = complete_references(spec, models)

    def resolve_inner(inner: JobSpec) -> InnerResolution:
        found = resolve(inner, dataset, models, threads=threads, datasets=datasets, memory_bytes=memory_bytes)
        return InnerResolution(found.spec, found.estimate, found.student)

    chain = resolve_chain(spec, dataset, models, resolve=resolve_inner)
    known = {**models, **chain.models}

    def resolve_job(job: JobSpec) -> Resolution:
        return _resolve_job(job, dataset, known, threads=threads, datasets=datasets, memory_bytes=memory_bytes)

    if chain.spec.method.name == "auto":
        resolution = resolve_with_recommended(chain.spec, dataset, known, resolve=resolve_job)
    else:
        resolution = resolve_job(chain.spec)
    return replace(resolution, spec=chain.complete(resolution.spec), estimate=chain.add_to(resolution.estimate))


def _resolve_job(
    spec: JobSpec,
    dataset: DatasetInfo,
    models: Mapping[str, ModelInfo],
    *,
    threads: int,
    datasets: Mapping[str, DatasetInfo],
    memory_bytes: int | None,
) -> Resolution:
    """Resolve a spec without distilled models."""
    collector = _ErrorCollector()
    collector.errors += [*dataset_errors(spec, dataset), *further_dataset_errors(spec, dataset, datasets)]
    student, teachers = _plan_models(spec, dataset, models, collector)
    counts = ImageCounts.of_job(spec, dataset, datasets)
    method = _build_method(spec, dataset, counts, student, teachers)
    student_model = _meta_model(student)
    formats, format_errors, format_warnings = check_formats(spec, student_model)
    collector.errors += format_errors
    num_images = method.num_images or counts.training
    spec = _fill_in_epochs(spec, num_images, num_train=dataset.num_train)
    resolved = _fill_in(spec, student, teachers, threads, formats)
    steps, step_costs = check_steps(resolved, student_model, num_train=dataset.num_train)
    collector.errors += [*_setting_errors(resolved, dataset, method, num_images), *steps.errors]
    collector.raise_if_any()
    classified = _classified(spec, dataset, models)
    warnings = spec_warnings(resolved, classified, models, student, teachers, num_images=num_images)
    warnings += [*evaluation_warnings(resolved, dataset), *format_warnings]
    warnings += [*device_warnings(resolved, student_model, method), *steps.warnings]
    further = [datasets[reference] for reference in spec.training_datasets().values()]
    decode_size = estimated_decode_size(student, teachers, [dataset, *further])

    def memory(changed: JobSpec) -> int:
        return job_memory(
            changed, dataset, student, teachers, num_images=num_images, image_size=decode_size, method=method
        )

    warnings += memory_warnings(resolved, memory_bytes, memory)
    estimate = estimate_job(
        resolved,
        dataset,
        student,
        teachers,
        warnings,
        num_images=num_images,
        counts=counts,
        image_size=decode_size,
        method=method,
        baseline=_plan_student(resolved, dataset, models) if resolved.baseline else None,
        step_costs=step_costs,
    )
    fitting = None if memory_bytes is None else fitting_batch_size(resolved, memory_bytes, memory)
    return Resolution(resolved, estimate, student, fitting)


def _setting_errors(spec: JobSpec, dataset: DatasetInfo, method: Method, num_images: int) -> list[FieldError]:
    """Return the errors of settings that do not fit the method, the data or each other."""
    return [
        *epoch_errors(spec),
        *device_errors(spec, method, num_images),
        *accumulation_errors(spec, method),
        *balance_errors(spec, method),
        *evaluation_errors(spec, dataset, method),
        *prepared_images_errors(spec, method),
    ]


def _classified(spec: JobSpec, dataset: DatasetInfo, models: Mapping[str, ModelInfo]) -> DatasetInfo:
    """Return the dataset with the classes that the student has: none if the method trains no classifier.

    Without labels, it is the number of classes of the first teacher, without names.
    """
    inputs = model_inputs(spec, dataset.input_info(), models=models)
    classes = dataset.classes if inputs.num_classes == dataset.num_classes else None
    return dataset.model_copy(update={"num_classes": inputs.num_classes, "classes": classes})


def _plan_models(
    spec: JobSpec, dataset: DatasetInfo, models: Mapping[str, ModelInfo], collector: _ErrorCollector
) -> tuple[ModelPlan, list[ModelPlan]]:
    """Plan student and teachers. Raises InvalidSpec with all errors collected by then."""
    requested = collector.collect("/student", lambda: _plan_student(spec, dataset, models))
    plans = [
        collector.collect(
            f"/teachers/{index}",
            lambda teacher=teacher: _plan_teacher(spec, teacher, dataset, models, requested),  # type: ignore[misc]
        )
        for index, teacher in enumerate(spec.teachers)
    ]
    collector.raise_if_any()
    assert requested is not None
    teachers = [plan for plan in plans if plan is not None]
    student = collector.collect("/student", lambda: _plan_variant(spec, requested, teachers))
    collector.raise_if_any()
    assert student is not None
    return student, teachers


def _plan_student(spec: JobSpec, dataset: DatasetInfo, models: Mapping[str, ModelInfo]) -> ModelPlan:
    _require_known_weights(spec.student)
    _check_family(spec, spec.student.architecture_name, spec.method.info.needs.student_families, "student")
    inputs = model_inputs(spec, dataset.input_info(), models=models)
    if inputs.num_classes is None and not (spec.method.info.needs.headless or spec.method.reads_labels):
        raise InvalidSpec.for_field(
            "/teachers/0/weights" if spec.teachers else "/student/weights",
            "the dataset has no labels, so the classes are those of these weights; use weights with a classifier "
            "(pretrained, or a model or job)",
        )
    plan = plan_student(spec.student, inputs, image_size=spec.training.image_size, models=models)
    return _profiled(plan, spec.student, "/training/image_size")


def _plan_variant(spec: JobSpec, requested: ModelPlan, teachers: Sequence[ModelPlan]) -> ModelPlan:
    plan = plan_student_variant(
        spec.method,
        requested,
        teachers=lambda: [inspect_structure(t.architecture, t.arguments, t.image_size) for t in teachers],
    )
    return _profiled(plan, spec.student, "/training/image_size")


def _plan_teacher(
    spec: JobSpec,
    teacher: TeacherSpec,
    dataset: DatasetInfo,
    models: Mapping[str, ModelInfo],
    student: ModelPlan | None,
) -> ModelPlan:
    _require_known_weights(teacher)
    _check_family(spec, teacher.architecture_name, spec.method.info.needs.teacher_families, "teacher")
    inputs = model_inputs(spec, dataset.input_info(), teacher, models=models)
    student_size = None if student is None else student.image_size
    plan = plan_teacher(teacher, inputs, image_size=student_size, models=models)
    if spec.method.info.needs.matched_grids and student is not None and _may_resize(teacher):
        size = matched_image_size(_profiled(plan, teacher, "/training/image_size"), student)
        if size not in {None, plan.image_size}:
            teacher = teacher.model_copy(update={"arguments": {**teacher.arguments, "img_size": size}})
            plan = plan_teacher(teacher, inputs, image_size=student_size, models=models)
    _check_classes(
        plan, _classified(spec, dataset, models), source="dataset" if dataset.num_classes else "first teacher"
    )
    return _profiled(plan, teacher, "/training/image_size")


def _may_resize(teacher: TeacherSpec) -> bool:
    """Whether the resolver may choose the image size of a teacher: not where it is given or set by a training."""
    return not teacher.is_trained and teacher.arguments.get("img_size") is None


def _profiled(plan: ModelPlan, model: ModelSpec, size_pointer: str) -> ModelPlan:
    """Return the plan of a model that can be built and run. Raises InvalidSpec otherwise."""
    try:
        profile_plan(plan)
    except InvalidSpec as error:
        raise (error if "img_size" in model.arguments else at_size_field(error, size_pointer)) from error
    return plan


def _require_known_weights(spec: ModelSpec) -> None:
    """Check that a model without an architecture got one from its weights. Raises InvalidSpec otherwise."""
    if spec.architecture is None:
        raise InvalidSpec.for_field("/weights", f"there is no {spec.weights} with weights to use")


def _check_family(spec: JobSpec, name: str, families: Sequence[Family], role: str) -> None:
    architecture = catalog.require(name)
    family = catalog.family(architecture)
    if families and family not in families:
        examples = " or ".join(_EXAMPLES[allowed] for allowed in families)
        raise InvalidSpec.for_field(
            "/architecture",
            f"{spec.method.name} needs a {' or '.join(families)} as {role} and {architecture} is a {family}; use "
            f"{examples}, or another method",
        )


def _check_classes(teacher: ModelPlan, dataset: DatasetInfo, *, source: str) -> None:
    mismatch = class_mismatch(teacher, dataset.num_classes, source=source)
    if mismatch is not None:
        raise InvalidSpec.for_field("/weights", mismatch)
    own, classes = teacher.classes, dataset.classes
    misplaced = misplaced_class(own, classes) if own and classes else None
    if own and misplaced is not None:
        here, there = misplaced
        raise InvalidSpec.for_field(
            "/weights",
            f"the teacher has the dataset's classes in another order: {own[here]} is its class {here} and the "
            f"dataset's class {there}, so its logits would be matched to the wrong classes; use weights train, or a "
            "teacher with the dataset's order",
        )


def _build_method(
    spec: JobSpec, dataset: DatasetInfo, counts: ImageCounts, student: ModelPlan, teachers: Sequence[ModelPlan]
) -> Method:
    """Build the method on the meta device. Raises InvalidSpec if it does not support these networks."""
    context = MethodContext.from_spec(
        spec,
        student=_meta_model(student),
        teachers=[_meta_model(teacher) for teacher in teachers],
        num_classes=dataset.num_classes or student.num_classes or None,
        num_samples=counts.training,
        labeled_fraction=counts.labeled_fraction if spec.method.reads_labels else 1.0,
        num_pool=counts.pool or None,
    )
    with on_meta():
        return build_method(spec.method, context)


def _meta_model(plan: ModelPlan) -> BuiltModel:
    module = shared_on_meta(plan.architecture, json.dumps(plan.arguments, sort_keys=True))
    preprocessing = plain_preprocessing(image_size=plan.image_size, channels=plan.channels)
    return BuiltModel(module, plan.architecture, plan.arguments, preprocessing)


def _fill_in_epochs(spec: JobSpec, num_images: int, *, num_train: int) -> JobSpec:
    """Fill in the epochs of the student, which trains on ``num_images``, and of teachers, which do on ``num_train``."""
    training = with_epochs(spec.training, num_images, is_random=spec.student.weights == "random")
    teachers = [
        teacher.model_copy(
            update={
                "training": with_epochs(
                    teacher.training or TeacherTrainingSpec(), num_train, is_random=not teacher.is_fine_tuned
                )
            }
        )
        if teacher.is_trained
        else teacher
        for teacher in spec.teachers
    ]
    return spec.model_copy(update={"training": training, "teachers": tuple(teachers)})


def _fill_in(
    spec: JobSpec, student: ModelPlan, teachers: Sequence[ModelPlan], threads: int, formats: Sequence[ExportEntry]
) -> JobSpec:
    training = spec.training.model_copy(update={"image_size": student.image_size})
    matched = spec.method.info.needs.matched_grids
    filled = tuple(_fill_in_teacher(t, plan, matched=matched) for t, plan in zip(spec.teachers, teachers, strict=True))
    requested = _with_canonical_name(spec.student)
    resources = spec.resources.model_copy(update={"threads": spec.resources.threads or threads})
    update = {
        "training": training,
        "student": requested,
        "teachers": filled,
        "resources": resources,
        "export": tuple(formats),
    }
    # Validated again: the stored spec must be one that a client could send.
    return JobSpec.model_validate(spec.model_copy(update=update).model_dump(mode="json"))


def _with_canonical_name(spec: Spec) -> Spec:
    return spec.model_copy(update={"architecture": catalog.canonical_name(spec.architecture_name)})


def _fill_in_teacher(teacher: TeacherSpec, plan: ModelPlan, *, matched: bool) -> TeacherSpec:
    teacher = _with_canonical_name(teacher)
    if matched and _may_resize(teacher) and "img_size" in plan.arguments:
        return teacher.model_copy(update={"arguments": {**teacher.arguments, "img_size": plan.image_size}})
    if not teacher.is_trained:
        return teacher
    assert teacher.training is not None, "the epochs are filled in"
    filled = teacher.training.model_copy(update={"image_size": plan.image_size})
    return teacher.model_copy(update={"training": filled})
