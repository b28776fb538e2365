"""What a resolved job will take, and what its sender should be told before it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.data.views import steps_per_epoch
from core.evaluate.appraisal import Appraisal, has_drop_path
from core.evaluate.estimate import Load, estimate_memory, estimate_seconds, load_seconds
from core.methods import Method
from core.spec import JobSpec
from core.spec.facts import DatasetFacts, ModelFacts
from core.teacher.answers import asked_views, can_be_stored
from core.teacher.asked import asked_of_teachers
from core.teacher.layout import lay_out, row_bytes

_ENLARGED = 2  # times the dataset's own size: nothing is learned from blown-up pixels, and each costs


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """One model of the job as it will be built."""

    architecture: str
    arguments: dict[str, Any]
    image_size: int
    appraisal: Appraisal


def warnings_of(
    spec: JobSpec, facts: DatasetFacts, models: Mapping[str, ModelFacts], student: PlannedModel
) -> list[str]:
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
    facts: DatasetFacts,
    student: PlannedModel,
    teachers: Sequence[PlannedModel],
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
    training = Load(student.appraisal, batch, total_steps, trains=True)
    cache = _teacher_cache(spec, teachers, method, num_pictures)
    asked_steps = an_epoch * cache["views"] or total_steps
    asking = [Load(teacher.appraisal, batch, asked_steps, trains=False) for teacher in teachers]
    before = [
        Load(
            model.appraisal,
            min(teacher.training.batch_size, facts.num_train),
            teacher.training.epochs * steps_per_epoch(facts.num_train, teacher.training.batch_size),
            trains=True,
        )
        for teacher, model in zip(spec.teachers, teachers, strict=True)
        if teacher.training is not None
    ]
    test = [Load(model.appraisal, 256, -(-facts.num_test // 256), trains=False) for model in (student, *teachers)]
    looks = [Load(teacher.appraisal, 256, -(-num_pool // 256), trains=False) for teacher in teachers if num_pool]
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


def _teacher_cache(
    spec: JobSpec, teachers: Sequence[PlannedModel], method: Method, num_pictures: int
) -> dict[str, Any]:
    """What all answers of the teachers take that the job will store; 0 where they are asked batch by batch.

    ``hit`` is for somebody to fill in who knows which jobs there were: those that ``asked`` the same of ``views``.
    """
    asks, sparse = method.asks, method.sparse_answers
    layouts = [lay_out(one.architecture, one.arguments, one.image_size, asks, sparse) for one in teachers]
    if not (method.reads_answers and can_be_stored(num_pictures, layouts)):
        return {"bytes": 0, "hit": False, "views": 0, "asked": None}
    views = asked_views(spec.training.epochs, spec.training.views, method.taught_share)
    return {
        "bytes": num_pictures * row_bytes(layouts) * views,
        "hit": False,
        "views": views,
        "asked": asked_of_teachers(spec, method, num_pictures),
    }


def _figures(model: PlannedModel) -> dict[str, Any]:
    return {
        "architecture": model.architecture,
        "image_size": model.image_size,
        "parameters": model.appraisal.parameters,
        "flops": model.appraisal.flops,
        "size_bytes": model.appraisal.size_bytes,
    }
