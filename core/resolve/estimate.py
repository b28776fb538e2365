"""Estimate the cost of a resolved job.

Seconds follow from FLOPs and from the number of module calls, at rates that were measured once. Memory follows from
parameters and activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.compress import StepCost
from core.data.views import steps_per_epoch
from core.evaluate.corruptions import num_corrupted
from core.job_warnings import JobWarning
from core.methods import Method
from core.models.plan import ModelPlan
from core.resolve.image_costs import batch_bytes, image_seconds, pass_size
from core.resolve.image_counts import ImageCounts
from core.resolve.model_profile import ModelProfile, profile_plan
from core.spec import JobSpec
from core.spec.compression import output_names
from core.spec.info import DatasetInfo
from core.spec.training import OptimizerName, TrainingBase
from core.teacher.cache_key import spec_cache_key
from core.teacher.layout import layout_for, row_bytes
from core.teacher.output_cache import is_cacheable, num_cached_views
from core.train.baseline import baseline_spec

CPU_FLOPS_PER_THREAD = 45e9  # fp32, per second
CUDA_FLOPS = 15e12  # per second, bf16 training of small models; they do not fill a large GPU
CALL_SECONDS = 50e-6  # overhead of one module's forward pass
TRAINING_FACTOR = 3  # a backward pass costs two forward passes
BALANCED_FACTOR = 5  # with a second backward pass
START_AND_EXPORT_SECONDS = 8.0  # loading data, preflight, ONNX export, report
PROCESS_BYTES = 700 * 1024**2  # torch, timm and other libraries
_EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class Workload:
    """Forward passes of one model, ``steps`` batches of ``batch_size`` images; with backward passes if ``trains``.

    ``batch_size`` is that of one pass: gradient accumulation divides batches and multiplies their number.
    """

    model: ModelProfile
    batch_size: int
    steps: int
    trains: bool
    optimizer: OptimizerName = "adamw"
    is_balanced: bool = False  # the gradients of two losses are computed one after another


def estimate_job(
    spec: JobSpec,
    dataset: DatasetInfo,
    student: ModelPlan,
    teachers: Sequence[ModelPlan],
    warnings: Sequence[JobWarning],
    *,
    num_images: int,
    counts: ImageCounts,
    image_size: int,
    method: Method,
    baseline: ModelPlan | None = None,
    step_costs: Sequence[StepCost] = (),
) -> dict[str, Any]:
    """Return the response of ``POST /v1/estimates`` for a resolved spec.

    ``num_images`` is the number of images that the student is trained on, and ``counts`` where they come from.
    ``image_size`` is the size at which the training images are decoded. ``method`` is built for these networks.
    ``baseline`` is the student that is also trained by labels alone. ``step_costs`` are those of the compression steps.
    """
    total_steps = spec.training.num_epochs * steps_per_epoch(num_images, spec.training.batch_size)
    cache = _teacher_cache(spec, teachers, method, num_images)
    training = _student_training(spec, student, num_images)
    inference = _teacher_inference(spec, teachers, num_images, num_views=cache["views"])
    trainings = _teacher_trainings(spec, teachers, dataset.num_train)
    selection = [_evaluation(teacher, counts.pool) for teacher in teachers if counts.pool]
    hardware: dict[str, Any] = {"threads": spec.resources.threads or 1, "accelerator": spec.resources.accelerator}
    corrupted = _num_corrupted(spec, dataset)
    num_tested = dataset.num_test + corrupted
    evaluation = [_evaluation(model, num_tested) for model in (student, *teachers)]
    own = [] if baseline is None else _baseline(spec, dataset, baseline, counts, corrupted)
    seconds = estimate_seconds([training, *inference, *trainings, *own, *selection, *evaluation], **hardware)
    seconds += image_seconds(spec, num_images, dataset.channels, image_size, cached_views=cache["views"])
    steps = [
        _step_estimate(spec, index, cost, compression_workloads(cost, training, student, dataset), hardware)
        for index, cost in enumerate(step_costs)
    ]
    seconds += sum(step["seconds"] for step in steps)
    cache_seconds = sum(workload_seconds(load, **hardware) for load in inference) if cache["views"] else 0.0
    return {
        "student": _model_figures(student),
        "teachers": [_model_figures(teacher) for teacher in teachers],
        "method": spec.method.model_dump(mode="json"),
        "epochs": spec.training.num_epochs,
        "total_steps": total_steps,
        "seconds": round(seconds, 1),
        "memory_bytes": job_memory(
            spec, dataset, student, teachers, num_images=num_images, image_size=image_size, method=method
        ),
        "teacher_cache": {**cache, "seconds": round(cache_seconds, 1)},
        "teacher_trainings": [
            {"teacher": index, **_seconds([load], hardware)}
            for index, load in zip(_trained_teachers(spec), trainings, strict=True)
        ],
        "baseline": None if baseline is None else _seconds(own, hardware),
        "compression": steps,
        "warnings": [warning.model_dump(mode="json") for warning in warnings],
    }


def _seconds(workloads: Sequence[Workload], hardware: Mapping[str, Any]) -> dict[str, float]:
    return {"seconds": round(sum(workload_seconds(load, **hardware) for load in workloads), 1)}


def _step_estimate(
    spec: JobSpec, index: int, cost: StepCost, workloads: Sequence[Workload], hardware: Mapping[str, Any]
) -> dict[str, Any]:
    seconds = cost.seconds + sum(workload_seconds(load, **hardware) for load in workloads)
    output = output_names(spec.compression)[index]
    return {"name": spec.compression[index].name, "output": output, "seconds": round(seconds, 1)}


def compression_workloads(
    cost: StepCost, training: Workload, student: ModelPlan, dataset: DatasetInfo
) -> tuple[Workload, ...]:
    """Passes of one compression step: its own, its training's, and the evaluation of its output.

    The outputs of teachers are mostly those that the student's training has cached.
    """
    epoch_steps = steps_per_epoch(dataset.num_train, training.batch_size)
    fine_tuning = replace(training, steps=cost.training_epochs * epoch_steps, is_balanced=False)
    return _evaluation(student, cost.forward_images), fine_tuning, _evaluation(student, dataset.num_test)


def estimate_seconds(workloads: Sequence[Workload], *, threads: int, accelerator: str) -> float:
    """Seconds of all workloads in sequence, start and export included."""
    return START_AND_EXPORT_SECONDS + sum(
        workload_seconds(workload, threads=threads, accelerator=accelerator) for workload in workloads
    )


def workload_seconds(workload: Workload, *, threads: int, accelerator: str) -> float:
    """Seconds of one workload."""
    model = workload.model
    flops_per_second = CUDA_FLOPS if accelerator == "cuda" else CPU_FLOPS_PER_THREAD * threads**0.9
    factor = (BALANCED_FACTOR if workload.is_balanced else TRAINING_FACTOR) if workload.trains else 1
    step_seconds = factor * (model.flops * workload.batch_size / flops_per_second + model.calls * CALL_SECONDS)
    return step_seconds * workload.steps


def job_memory(
    spec: JobSpec,
    dataset: DatasetInfo,
    student: ModelPlan,
    teachers: Sequence[ModelPlan],
    *,
    num_images: int,
    image_size: int,
    method: Method,
) -> int:
    """Peak bytes of a job with the arguments of :func:`estimate_job`."""
    return estimate_memory(
        _student_training(spec, student, num_images),
        _teacher_inference(spec, teachers, num_images, num_views=0),
        _teacher_trainings(spec, teachers, dataset.num_train),
        ema=spec.training.ema is not None,
        image_bytes=_image_bytes(spec, dataset, num_images, image_size),
        method_parameters=sum(parameter.numel() for parameter in method.parameters()),
    )


def estimate_memory(
    student: Workload,
    teachers: Sequence[Workload],
    teacher_trainings: Sequence[Workload],
    *,
    ema: bool,
    image_bytes: int = 0,
    method_parameters: int = 0,
) -> int:
    """Peak bytes: the process and its largest training, the student's (next to its teachers) or a teacher's.

    A trained model takes weights, gradients and the moments of its optimizer in fp32 (AdamW has two, others have one),
    and the activations of a batch, or of the part of it that is computed at once. A frozen model takes its weights and
    a few activations. ``image_bytes`` are those of the batches, before the networks. ``method_parameters`` are those
    of the method's heads and projections, which are trained with the student.
    """
    frozen = sum(4 * load.model.parameters + 8 * _live_activations(load) for load in teachers)
    heads = _bytes_per_parameter(student.optimizer) * method_parameters
    peaks = [_training_bytes(student) + heads + frozen + (4 * student.model.parameters if ema else 0)]
    peaks += [_training_bytes(load) for load in teacher_trainings]
    return PROCESS_BYTES + image_bytes + max(peaks)


def _image_bytes(spec: JobSpec, dataset: DatasetInfo, num_images: int, image_size: int) -> int:
    """Bytes of the images of the largest batch, of the student's training or of a teacher's."""
    own = [teacher.training for teacher in spec.teachers if teacher.training is not None]
    sizes = [batch_bytes(t, dataset.num_train, dataset.channels, t.image_size or image_size) for t in own]
    return max(batch_bytes(spec.training, num_images, dataset.channels, image_size), *sizes, 0)


def _student_training(spec: JobSpec, student: ModelPlan, num_images: int) -> Workload:
    is_balanced = spec.training.balance.rule != "none"
    return replace(_training(spec.training, student, num_images), is_balanced=is_balanced)


def _training(training: TrainingBase, model: ModelPlan, num_images: int) -> Workload:
    batch_size, parts = pass_size(training, num_images)
    steps = training.num_epochs * steps_per_epoch(num_images, training.batch_size) * parts
    return Workload(profile_plan(model), batch_size, steps, trains=True, optimizer=training.optimizer)


def _teacher_inference(
    spec: JobSpec, teachers: Sequence[ModelPlan], num_images: int, *, num_views: int
) -> list[Workload]:
    """Forward passes of the teachers: ``num_views`` views if their outputs are cached, else every step."""
    batch_size, parts = pass_size(spec.training, num_images)
    steps = steps_per_epoch(num_images, spec.training.batch_size) * parts * (num_views or spec.training.num_epochs)
    return [Workload(profile_plan(plan), batch_size, steps, trains=False) for plan in teachers]


def _trained_teachers(spec: JobSpec) -> list[int]:
    return [index for index, teacher in enumerate(spec.teachers) if teacher.training is not None]


def _teacher_trainings(spec: JobSpec, teachers: Sequence[ModelPlan], num_train: int) -> list[Workload]:
    trainings = [(plan, teacher.training) for teacher, plan in zip(spec.teachers, teachers, strict=True)]
    return [_training(training, plan, num_train) for plan, training in trainings if training is not None]


def _evaluation(model: ModelPlan, num_images: int) -> Workload:
    return Workload(profile_plan(model), _EVALUATION_BATCH, -(-num_images // _EVALUATION_BATCH), trains=False)


def _num_corrupted(spec: JobSpec, dataset: DatasetInfo) -> int:
    """Number of corrupted images that each classifier is evaluated on, and of the same images without corruption."""
    if spec.method.info.needs.headless or dataset.num_classes is None:
        return 0
    return num_corrupted(dataset.num_test)


def _baseline(
    spec: JobSpec, dataset: DatasetInfo, model: ModelPlan, counts: ImageCounts, corrupted: int
) -> list[Workload]:
    """Training and evaluation of the baseline."""
    own = baseline_spec(spec, num_labeled=dataset.num_train, num_unlabeled=counts.unlabeled)
    return [_training(own.training, model, counts.own), _evaluation(model, dataset.num_test + corrupted)]


def _teacher_cache(spec: JobSpec, teachers: Sequence[ModelPlan], method: Method, num_images: int) -> dict[str, Any]:
    """Size and key of the teacher outputs that the job caches; ``views`` is 0 if they are computed batch by batch.

    The caller sets ``hit`` from the outputs that earlier jobs stored under ``cache_key``.
    """
    layouts = [
        layout_for(plan.architecture, plan.arguments, plan.image_size, method.teacher_request, method.top_k)
        for plan in teachers
    ]
    if not (method.cacheable and is_cacheable(num_images, layouts)):
        return {"bytes": 0, "hit": False, "views": 0, "cache_key": None}
    views = num_cached_views(spec.training.num_epochs, spec.training.distinct_views, method.teacher_fraction)
    return {
        "bytes": num_images * row_bytes(layouts) * views,
        "hit": False,
        "views": views,
        "cache_key": spec_cache_key(spec, method, num_images),
    }


def _model_figures(plan: ModelPlan) -> dict[str, Any]:
    profile = profile_plan(plan)
    return {
        "architecture": plan.architecture,
        "image_size": plan.image_size,
        "parameters": profile.parameters,
        "flops": profile.flops,
        "size_bytes": profile.size_bytes,
    }


def _training_bytes(workload: Workload) -> int:
    per_parameter = _bytes_per_parameter(workload.optimizer)
    if workload.is_balanced:
        per_parameter += 12  # a second gradient, and both as flat tensors
    return per_parameter * workload.model.parameters + 4 * workload.model.activations * workload.batch_size


def _bytes_per_parameter(optimizer: OptimizerName) -> int:
    """Bytes of a trained parameter, its gradient and its moments."""
    return 16 if optimizer == "adamw" else 12


def _live_activations(workload: Workload) -> int:
    """Activations alive at once without a backward pass: those of about four calls."""
    model = workload.model
    return model.activations * workload.batch_size // max(1, model.calls // 4)
