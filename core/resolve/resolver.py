"""From a job spec to one with nothing left open, and to what it will cost; nothing real is allocated.

Teacher, student, dataset and method are brought together on the meta device. Everything that cannot
work is found here and said with a pointer into the spec and a fix, before anything is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from core.data.holdout import num_held_out
from core.errors import FieldError, InvalidSpec
from core.methods import Method, MethodContext, build_method, implementation, student_form
from core.models import catalog
from core.models.arguments import model_arguments, refused, square_size
from core.models.build import check_reference, class_mismatch
from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta, on_meta
from core.models.preprocessing import plain_preprocessing
from core.models.structure import inspect_structure
from core.resolve.device_checks import device_errors, device_warnings
from core.resolve.estimate import ModelPlan, estimate_of, warnings_of
from core.resolve.model_profile import profile_model
from core.spec import JobSpec, StudentSpec, TeacherSpec, TeacherTrainingSpec
from core.spec.facts import DatasetInfo, InputInfo, ModelInfo
from core.spec.methods import Family

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 4, 1024
_EXAMPLES: dict[Family, str] = {
    "transformer": "a vit_* or deit_*",
    "cnn": "a resnet* or convnext_*",
    "hybrid": "a levit_* or mobilevit_*",
    "mlp": "a mixer_*",
}


@dataclass(frozen=True, slots=True)
class Resolution:
    """A spec with every default filled in, and the contract's answer to ``POST /v1/estimates``."""

    spec: JobSpec
    estimate: dict[str, Any]


@dataclass(slots=True)
class _ErrorCollector:
    """What is wrong; every part of the spec is looked at before any error is raised."""

    errors: list[FieldError] = field(default_factory=list)

    def collect(self, base: str, look: Callable[[], ModelPlan]) -> ModelPlan | None:
        """Run one look; pointers of what it refuses are placed under ``base``."""
        try:
            return look()
        except InvalidSpec as error:
            found = error.errors or (FieldError("/arguments", error.detail),)
            for e in found:
                inside = e.pointer.startswith((base, "/training", "/dataset", "/method", "/teachers"))
                self.errors.append(e if inside else FieldError(f"{base}{e.pointer}", e.detail))
            return None

    def raise_if_any(self) -> None:
        if self.errors:
            summary = "; ".join(f"{e.pointer}: {e.detail}" for e in self.errors[:3])
            more = f"; and {len(self.errors) - 3} more" if len(self.errors) > 3 else ""
            raise InvalidSpec(summary + more, errors=self.errors)


def resolve(
    spec: JobSpec,
    facts: DatasetInfo,
    models: Mapping[str, ModelInfo],
    *,
    threads: int,
    datasets: Mapping[str, DatasetInfo] = MappingProxyType({}),
) -> Resolution:
    """Fill in what ``spec`` leaves open and check that its parts work together.

    ``models`` has the facts of every ``mdl_…`` and ``job_…`` that the spec refers to, ``datasets`` those of
    the datasets that its method reads; ``threads`` is what a job gets that asks for none. Resolving a
    resolved spec changes nothing.

    Raises:
        InvalidSpec: With one ``FieldError`` for each thing that cannot be.
    """
    findings = _ErrorCollector()
    _check_dataset(spec, facts, findings)
    _check_pools(spec, facts, datasets, findings)
    student = findings.collect("/student", lambda: _student(spec, _facts_for(spec, facts), models))
    teachers = [
        findings.collect(
            f"/teachers/{index}",
            lambda teacher=teacher: _teacher(spec, teacher, facts, models, student.image_size if student else None),  # type: ignore[misc]
        )
        for index, teacher in enumerate(spec.teachers)
    ]
    findings.raise_if_any()
    assert student is not None
    ready = [teacher for teacher in teachers if teacher is not None]
    asked = student
    student = findings.collect("/student", lambda: _in_form(spec, asked, ready))
    findings.raise_if_any()
    assert student is not None
    num_pool = sum(datasets[one].num_train for one in spec.method.datasets().values())
    method = _check_method(spec, facts, num_pool, student, ready)
    resolved = _filled(spec, student, ready, threads)
    num_pictures = method.num_images or _num_trained_on(spec, facts)
    findings.errors += device_errors(resolved, method, num_pictures)
    findings.raise_if_any()
    warnings = warnings_of(resolved, _seen_by(spec, facts), models, student)
    warnings += device_warnings(resolved, _meta_model(student), method)
    estimate = estimate_of(
        resolved,
        facts,
        student,
        ready,
        warnings,
        num_pictures=num_pictures,
        num_pool=num_pool,
        method=method,
    )
    return Resolution(resolved, estimate)


def _check_dataset(spec: JobSpec, facts: DatasetInfo, findings: _ErrorCollector) -> None:
    if spec.method.about.needs.labels and facts.num_classes is None:
        findings.errors.append(
            FieldError(
                "/dataset", f"it has no labels, and {spec.method.name} learns from labels; use a dataset with classes"
            )
        )
    for name, count in (("train", facts.num_train), ("test", facts.num_test)):
        if count == 0:
            findings.errors.append(FieldError("/dataset", f"its {name} split is empty"))
    if facts.num_train == 1:
        findings.errors.append(FieldError("/dataset", "its train split has a single image; at least two are needed"))


def _check_pools(
    spec: JobSpec, facts: DatasetInfo, datasets: Mapping[str, DatasetInfo], findings: _ErrorCollector
) -> None:
    """What the method reads beside the job's dataset; labels are never looked at there."""
    for name, reference in spec.method.datasets().items():
        pool = datasets.get(reference)
        if pool is None:
            detail = f"there is no dataset {reference} with pictures to use"
        elif pool.num_train < 2:
            detail = f"its train split has {pool.num_train} pictures; at least two are needed"
        elif pool.channels != facts.channels:
            detail = f"its pictures have {pool.channels} channels and those of the job's dataset {facts.channels}"
        else:
            continue
        findings.errors.append(FieldError(f"/method/{name}", detail))


def _seen_by(spec: JobSpec, facts: DatasetInfo) -> DatasetInfo:
    """The dataset as the method's networks know it: without classes where there is no classifier."""
    if not spec.method.about.needs.headless:
        return facts
    return facts.model_copy(update={"num_classes": None, "classes": None})


def _facts_for(spec: JobSpec, facts: DatasetInfo) -> InputInfo:
    return _seen_by(spec, facts).for_models()


def _student(spec: JobSpec, facts: InputInfo, models: Mapping[str, ModelInfo]) -> ModelPlan:
    student = spec.student
    architecture = catalog.require(student.architecture)
    stored = _reference(student, models)
    size = _one_size(
        square_size(student.arguments.get("img_size"), pointer="/arguments/img_size"),
        spec.training.image_size,
        "/training/image_size",
    )
    if size is None and stored is not None:
        size = stored.image_size
    if size is None and catalog.takes_image_size(architecture):
        size = catalog.native_image_size(student.architecture)
    size = _in_range(size or max(facts.image_size, MIN_IMAGE_SIZE))
    _check_family(spec, architecture, spec.method.about.needs.student_families, "student")
    inherited = {} if stored is None else _own_arguments(stored)
    completed = student.model_copy(update={"arguments": {**inherited, **student.arguments}})
    arguments = model_arguments(completed, facts, size)
    return ModelPlan(architecture, arguments, size, profile_model(architecture, arguments, image_size=size))


def _in_form(spec: JobSpec, asked: ModelPlan, teachers: list[ModelPlan]) -> ModelPlan:
    """The student in the form that the method gives it."""
    form = student_form(
        spec.method,
        asked.architecture,
        asked.arguments,
        image_size=asked.image_size,
        teachers=lambda: [inspect_structure(t.architecture, t.arguments, t.image_size) for t in teachers],
    )
    if form is None:
        return asked
    architecture, arguments = form.architecture_and_arguments(asked.architecture, asked.arguments)
    return _appraised(architecture, arguments, asked.image_size)


def _check_method(
    spec: JobSpec, facts: DatasetInfo, num_pool: int, student: ModelPlan, teachers: list[ModelPlan]
) -> Method:
    """Build the method for these networks, without memory: what it cannot work with it refuses itself."""
    setting = MethodContext(
        student=_meta_model(student),
        teachers=[_meta_model(teacher) for teacher in teachers],
        num_classes=facts.num_classes,
        num_samples=_num_trained_on(spec, facts),
        num_pool=num_pool or None,
        student_has_weights=spec.student.weights != "random",
        label_smoothing=spec.training.label_smoothing,
        drop_path=spec.training.drop_path,
        batch_size=spec.training.batch_size,
        seed=spec.training.seed,
    )
    with on_meta():
        return build_method(spec.method, setting)


def _num_trained_on(spec: JobSpec, facts: DatasetInfo) -> int:
    """The training split's pictures, less what the method wants to be held out."""
    return facts.num_train - num_held_out(facts.num_train, implementation(spec.method.name).held_out)


def _meta_model(model: ModelPlan) -> BuiltModel:
    module = build_on_meta(model.architecture, model.arguments)
    preprocessing = plain_preprocessing(image_size=model.image_size, channels=int(model.arguments["in_chans"]))
    return BuiltModel(module, model.architecture, model.arguments, preprocessing)


def _teacher(
    spec: JobSpec,
    teacher: TeacherSpec,
    facts: DatasetInfo,
    models: Mapping[str, ModelInfo],
    student_size: int | None,
) -> ModelPlan:
    architecture = catalog.require(teacher.architecture)
    _check_family(spec, architecture, spec.method.about.needs.teacher_families, "teacher")
    stored = _reference(teacher, models)
    given = square_size(teacher.arguments.get("img_size"), pointer="/arguments/img_size")
    if stored is not None:
        size = stored.image_size or student_size or facts.image_size
        _check_classes(teacher, stored.num_classes, stored.classes, _seen_by(spec, facts))
        return _appraised(architecture, stored.arguments, size)
    if teacher.weights == "pretrained":
        own = catalog.published(teacher.architecture)
        size = given or own.image_size
        _check_classes(teacher, own.num_classes or 0, None, _seen_by(spec, facts))
        return _appraised(architecture, model_arguments(teacher, own, size), size)
    if teacher.weights == "train":
        if facts.num_classes is None:
            raise refused("/weights", "there are no labels that a teacher could learn from; give it weights")
        asked = None if teacher.training is None else teacher.training.image_size
        given = _one_size(given, asked, "/training/image_size")
    size = _in_range(given or student_size or facts.image_size)
    from_dataset = facts.for_models() if teacher.weights == "train" else _facts_for(spec, facts)
    return _appraised(architecture, model_arguments(teacher, from_dataset, size), size)


def _appraised(architecture: str, arguments: Mapping[str, Any], size: int) -> ModelPlan:
    return ModelPlan(architecture, dict(arguments), size, profile_model(architecture, arguments, image_size=size))


def _reference(spec: StudentSpec | TeacherSpec, models: Mapping[str, ModelInfo]) -> ModelInfo | None:
    """The stored model that a spec starts from, if it does, and found to agree with the spec."""
    if spec.weights in {"random", "train"}:
        return None
    if spec.weights == "pretrained":
        if not catalog.has_pretrained(spec.architecture):
            tags = catalog.pretrained_tags(spec.architecture.partition(".")[0])
            hint = f"known: {', '.join(tags)}" if tags else "use random, train or an uploaded model"
            raise refused("/weights", f"there are no pretrained weights for {spec.architecture}; {hint}")
        return None
    if spec.weights not in models:
        raise refused("/weights", f"there is no {spec.weights} with weights to use")
    stored = models[spec.weights]
    check_reference(spec, stored.architecture, stored.arguments)
    return stored


def _own_arguments(stored: ModelInfo) -> dict[str, Any]:
    """The stored model's dimensions, less what comes from the dataset at hand."""
    return {k: v for k, v in stored.arguments.items() if k not in {"num_classes", "in_chans", "img_size"}}


def _one_size(given: int | None, asked: int | None, pointer: str) -> int | None:
    if given is not None and asked is not None and given != asked:
        raise refused("/arguments/img_size", f"img_size is {given} and {pointer} is {asked}; give one of them")
    return given or asked


def _in_range(size: int) -> int:
    if not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        raise refused("/arguments/img_size", f"{MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels a side are accepted")
    return size


def _check_family(spec: JobSpec, architecture: str, families: Sequence[Family], role: str) -> None:
    family = catalog.family(architecture)
    if families and family not in families:
        examples = " or ".join(_EXAMPLES[wanted] for wanted in families)
        raise refused(
            "/architecture",
            f"{spec.method.name} needs a {' or '.join(families)} as {role} and {architecture} is a {family}; use "
            f"{examples}, or another method",
        )


def _check_classes(teacher: TeacherSpec, num_classes: int, classes: tuple[str, ...] | None, facts: DatasetInfo) -> None:
    if facts.num_classes is None:
        return
    if num_classes != facts.num_classes:
        raise refused("/weights", class_mismatch(teacher, num_classes, facts.num_classes))
    if classes and facts.classes and classes != facts.classes and set(classes) == set(facts.classes):
        raise refused(
            "/weights",
            f"the teacher has the dataset's classes in another order ({', '.join(classes[:4])}…; the dataset: "
            f"{', '.join(facts.classes[:4])}…), so its answers would be taken for others",
        )


def _filled(spec: JobSpec, student: ModelPlan, teachers: list[ModelPlan], threads: int) -> JobSpec:
    training = spec.training.model_copy(
        update={
            "image_size": student.image_size,
            "min_learning_rate": min(spec.training.min_learning_rate, spec.training.learning_rate),
        }
    )
    filled = tuple(_filled_teacher(t, m) for t, m in zip(spec.teachers, teachers, strict=True))
    resources = spec.resources.model_copy(update={"threads": spec.resources.threads or threads})
    update = {"training": training, "teachers": filled, "resources": resources}
    # Validated again: what is stored must be a spec that anybody could send.
    return JobSpec.model_validate(spec.model_copy(update=update).model_dump(mode="json"))


def _filled_teacher(teacher: TeacherSpec, model: ModelPlan) -> TeacherSpec:
    if teacher.weights != "train":
        return teacher
    training = teacher.training or TeacherTrainingSpec()
    rate = min(training.min_learning_rate, training.learning_rate)
    filled = training.model_copy(update={"image_size": model.image_size, "min_learning_rate": rate})
    return teacher.model_copy(update={"training": filled})
