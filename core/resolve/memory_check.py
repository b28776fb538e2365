"""Warnings for jobs that need more memory than their workers have, with the batch size that fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.job_warnings import EXCEEDS_MEMORY, JobWarning
from core.spec import JobSpec

MemoryEstimate = Callable[[JobSpec], int]  # bytes of a resolved spec


def memory_warnings(spec: JobSpec, limit_bytes: int | None, estimate: MemoryEstimate) -> list[JobWarning]:
    """Return a warning for each batch size with which a job needs more than ``limit_bytes``; None: unlimited."""
    if limit_bytes is None or estimate(spec) <= limit_bytes:
        return []
    blocks, smallest = _blocks(spec), _with_smallest_batches(spec)
    needed = (
        f"the job needs about {_gigabytes(estimate(spec))} of memory, and its workers have {_gigabytes(limit_bytes)}"
    )
    if estimate(smallest) > limit_bytes:
        fix = "lower training.image_size, or use a smaller model: no batch size fits"
        return [JobWarning(code=EXCEEDS_MEMORY, field="/training/image_size", message=needed, fix=fix)]
    warnings = []
    for block in blocks:
        fitting = _largest_fitting(smallest, block, limit_bytes, estimate, batch_size=_batch_size(spec, block))
        if fitting < _batch_size(spec, block):
            field = "/training/batch_size" if block is None else f"/teachers/{block}/training/batch_size"
            fix = f"lower batch_size to {fitting}"
            warnings.append(JobWarning(code=EXCEEDS_MEMORY, field=field, message=needed, fix=fix))
    return warnings


def fitting_batch_size(spec: JobSpec, limit_bytes: int, estimate: MemoryEstimate) -> int:
    """Return the largest batch size of the student's training, up to the spec's, that fits; 0 if none does."""
    smallest = _with_smallest_batches(spec)
    if estimate(smallest) > limit_bytes:
        return 0
    return _largest_fitting(smallest, None, limit_bytes, estimate, batch_size=spec.training.batch_size)


def _blocks(spec: JobSpec) -> list[int | None]:
    """Trainings of a job: None for the student's, the index of each teacher that is trained."""
    return [None, *(index for index, teacher in enumerate(spec.teachers) if teacher.training is not None)]


def _with_smallest_batches(spec: JobSpec) -> JobSpec:
    for block in _blocks(spec):
        spec = with_batch_size(spec, block, 1)
    return spec


def with_batch_size(spec: JobSpec, teacher: int | None, batch_size: int) -> JobSpec:
    """Return the spec with another batch size in the student's training, or in that of a teacher."""
    if teacher is None:
        return spec.model_copy(update={"training": spec.training.model_copy(update={"batch_size": batch_size})})
    teachers: list[Any] = list(spec.teachers)
    training = teachers[teacher].training.model_copy(update={"batch_size": batch_size})
    teachers[teacher] = teachers[teacher].model_copy(update={"training": training})
    return spec.model_copy(update={"teachers": tuple(teachers)})


def _batch_size(spec: JobSpec, teacher: int | None) -> int:
    training = spec.training if teacher is None else spec.teachers[teacher].training
    assert training is not None, "only trained teachers have a batch size"
    return training.batch_size


def _largest_fitting(
    spec: JobSpec, teacher: int | None, limit_bytes: int, estimate: MemoryEstimate, *, batch_size: int
) -> int:
    """Return the largest batch size up to ``batch_size`` that fits; ``spec`` fits with 1."""
    low, high = 1, batch_size
    while low < high:
        middle = (low + high + 1) // 2
        if estimate(with_batch_size(spec, teacher, middle)) <= limit_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
