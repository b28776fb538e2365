"""Jobs that ran out of memory: the batch size that fits."""

from __future__ import annotations

from core.errors import OutOfMemory
from core.resolve.resolver import resolve
from core.spec import JobSpec
from worker.jobs.inputs import Inputs


def out_of_memory(error: Exception, spec: JobSpec, inputs: Inputs, *, limit_bytes: int | None) -> OutOfMemory:
    """Return the error of a job that ran out of memory; it names a batch size that fits.

    The estimate gives it, but at most half of the batch size that did not fit.
    """
    half = spec.training.batch_size // 2
    fitting = half if limit_bytes is None else min(half, _estimated_batch_size(spec, inputs, limit_bytes))
    reason = error.detail if isinstance(error, OutOfMemory) else f"{type(error).__name__}: {error}"
    if fitting < 1:
        return OutOfMemory(reason)
    return OutOfMemory(f"{reason} A batch_size of {fitting} should fit.", extra={"batch_size": fitting})


def _estimated_batch_size(spec: JobSpec, inputs: Inputs, limit_bytes: int) -> int:
    """Return the largest batch size of the student's training that fits by the estimate; 0 if none does."""
    resolution = resolve(
        spec,
        inputs.dataset_info(),
        inputs.model_info(),
        datasets=inputs.other_dataset_info(),
        threads=spec.resources.threads or 1,
        memory_bytes=limit_bytes,
    )
    assert resolution.fitting_batch_size is not None, "the limit is known"
    return resolution.fitting_batch_size
