"""What a resolved job will take, and what its sender should be told before it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.data.views import steps_per_epoch
from core.methods import Method
from core.resolve.model_profile import ModelProfile, has_drop_path
from core.spec import JobSpec
from core.spec.facts import DatasetInfo, ModelInfo
from core.teacher.cache_key import spec_cache_key
from core.teacher.layout import layout_for, row_bytes
from core.teacher.output_cache import is_cacheable, num_cached_views

_ENLARGED = 2  # times the dataset's own size: nothing is learned from blown-up pixels, and each costs


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model of the job as it will be built."""

    architecture: str
    arguments: dict[str, Any]
    image_size: int
    appraisal: ModelProfile


def warnings_of(spec: JobSpec, facts: DatasetInfo, models: Mapping[str, ModelInfo], student: ModelPlan) -> list[str]:
    """What works and is probably not what was meant."""
    found: list[str] = []
    if spec.training.batch_size > facts.num_train:
        found.append(
            f"training.batch_size {spec.training.batch_size} is above the {facts.num_train} training images: an epoch "
            "is one step"
        )
    if student.image_size >= _ENLARGED * facts.image_size:
        found.append(
            f"the dataset's pictures of about {facts.image_size} pixels a side are enlarged to {student.image_size}; "
            "set training.image_size if that is not meant"
        )
    drop_path = spec.training.drop_path
    if drop_path > 0 and not has_drop_path(student.architecture, json.dumps(student.arguments, sort_keys=True)):
        found.append(f"{student.architecture} has no stochastic depth; training.drop_path has no effect")
    for index, teacher in enumerate(spec.teachers):
        if teacher.weights == "random":
            found.append(f"teachers/{index} has random weights: it knows nothing that it could teach")
        stored = models.get(teacher.weights)
        if stored and stored.classes and facts.classes and set(stored.classes) != set(facts.classes):
            found.append(
                f"teachers/{index} names its classes otherwise than the dataset; they are matched by their position"
            )
    stored = models.get(spec.student.weights)
    if stored is not None and facts.num_classes is not None and stored.num_classes != facts.num_classes:
        found.append(
            f"the student's weights are for {stored.num_classes} classes: its head starts at random for "
            f"{facts.num_classes}"
        )
    return found


def estimate_of(
    spec: JobSpec,
    facts: DatasetInfo,
    student: ModelPlan,
    teachers: Sequence[ModelPlan],
    warnings: Sequence[str],
    *,
    num_pictures: int,
    num_pool: int,
    method: Method,
) -> dict[str, Any]:
    """The contract's answer to ``POST /v1/estimates``; ``num_pictures`` are trained on, ``num_pool`` only looked at.

    ``method`` is the one that was built for these networks.
    """
    batch = min(spec.training.batch_size, num_pictures)
    an_epoch = steps_per_epoch(num_pictures, spec.training.batch_size)
    total_steps = spec.training.epochs * an_epoch
    training = Workload(student.appraisal, batch, total_steps, trains=True)
    cache = _teacher_cache(spec, teachers, method, num_pictures)
    asked_steps = an_epoch * cache["views"] or total_steps
    asking = [Workload(teacher.appraisal, batch, asked_steps, trains=False) for teacher in teachers]
    before = [
        Workload(
            model.appraisal,
            min(teacher.training.batch_size, facts.num_train),
            teacher.training.epochs * steps_per_epoch(facts.num_train, teacher.training.batch_size),
            trains=True,
        )
        for teacher, model in zip(spec.teachers, teachers, strict=True)
        if teacher.training is not None
    ]
    test = [Workload(model.appraisal, 256, -(-facts.num_test // 256), trains=False) for model in (student, *teachers)]
    looks = [Workload(teacher.appraisal, 256, -(-num_pool // 256), trains=False) for teacher in teachers if num_pool]
    threads = spec.resources.threads or 1
    on: dict[str, Any] = {"threads": threads, "accelerator": spec.resources.accelerator}
    seconds = estimate_seconds([training, *asking, *before, *looks, *test], **on)
    answers = sum(load_seconds(load, **on) for load in asking) if cache["views"] else 0.0
    return {
        "student": _figures(student),
        "teachers": [_figures(teacher) for teacher in teachers],
        "total_steps": total_steps,
        "seconds": round(seconds, 1),
        "memory_bytes": estimate_memory(training, asking, before, ema=spec.training.ema is not None),
        "teacher_cache": {**cache, "seconds": round(answers, 1)},
        "warnings": list(warnings),
    }


def _teacher_cache(spec: JobSpec, teachers: Sequence[ModelPlan], method: Method, num_pictures: int) -> dict[str, Any]:
    """What all answers of the teachers take that the job will store; 0 where they are asked batch by batch.

    ``hit`` is for somebody to fill in who knows which jobs there were: those that ``asked`` the same of ``views``.
    """
    asks, sparse = method.teacher_request, method.top_k
    layouts = [layout_for(one.architecture, one.arguments, one.image_size, asks, sparse) for one in teachers]
    if not (method.cacheable and is_cacheable(num_pictures, layouts)):
        return {"bytes": 0, "hit": False, "views": 0, "asked": None}
    views = num_cached_views(spec.training.epochs, spec.training.views, method.teacher_fraction)
    return {
        "bytes": num_pictures * row_bytes(layouts) * views,
        "hit": False,
        "views": views,
        "asked": spec_cache_key(spec, method, num_pictures),
    }


def _figures(model: ModelPlan) -> dict[str, Any]:
    return {
        "architecture": model.architecture,
        "image_size": model.image_size,
        "parameters": model.appraisal.parameters,
        "flops": model.appraisal.flops,
        "size_bytes": model.appraisal.size_bytes,
    }


CPU_FLOPS_PER_THREAD = 45e9  # fp32, per second
CUDA_FLOPS = 15e12  # bf16 training of small models; they do not fill a large GPU
CALL_SECONDS = 50e-6  # of a module's forward pass that does next to nothing
TRAINING_FACTOR = 3  # a backward pass costs two forward passes
START_AND_EXPORT_SECONDS = 8.0  # opening data, probe, ONNX, report
PROCESS_BYTES = 700 * 1024**2  # torch, timm and friends


@dataclass(frozen=True, slots=True)
class Workload:
    """One model's part in a job: so many forward passes of so many pictures, with or without backward passes."""

    model: ModelProfile
    batch_size: int
    steps: int
    trains: bool


def estimate_seconds(loads: list[Workload], *, threads: int, accelerator: str) -> float:
    """Seconds of all loads, one after the other, start and export included."""
    return START_AND_EXPORT_SECONDS + sum(
        load_seconds(load, threads=threads, accelerator=accelerator) for load in loads
    )


def load_seconds(load: Workload, *, threads: int, accelerator: str) -> float:
    """Seconds of one load."""
    rate = CUDA_FLOPS if accelerator == "cuda" else CPU_FLOPS_PER_THREAD * threads**0.9
    factor = TRAINING_FACTOR if load.trains else 1
    step = factor * (load.model.flops * load.batch_size / rate + load.model.calls * CALL_SECONDS)
    return step * load.steps


def estimate_memory(student: Workload, teachers: list[Workload], trained_teachers: list[Workload], *, ema: bool) -> int:
    """Peak bytes: a training (student beside its teachers, or a teacher before) and the process itself.

    A trained model has weights, gradients and two moments of AdamW in fp32 and keeps the activations
    of a batch; a frozen one has its weights and a few activations in flight.
    """
    beside = sum(4 * load.model.parameters + 8 * _widest(load) for load in teachers)
    peaks = [_training_bytes(student) + beside + (4 * student.model.parameters if ema else 0)]
    peaks += [_training_bytes(load) for load in trained_teachers]
    return PROCESS_BYTES + max(peaks)


def _training_bytes(load: Workload) -> int:
    return 16 * load.model.parameters + 4 * load.model.activations * load.batch_size


def _widest(load: Workload) -> int:
    """Activations alive at once without a backward pass: those of a few calls."""
    return load.model.activations * load.batch_size // max(1, load.model.calls // 4)
