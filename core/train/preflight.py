"""Preflight: one real training step on copies, so that a job that cannot run fails within seconds."""

from __future__ import annotations

import copy
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from core.errors import SpecCannotRun
from core.models.weights import BUILD_ERRORS
from core.spec import JobSpec
from core.train.checkpoint import read_checkpoint, write_checkpoint
from core.train.context import RunContext
from core.train.environment import is_out_of_memory
from core.train.trainer import TrainingSetup, TrainStep

_TIMED_SECONDS = 0.5  # of steps after the first; then no further one is timed
_MAX_STEPS = 4
_KIND = "preflight"

# Spec fields that cannot make a step fail. The training itself detects a non-finite loss.
_IGNORED_FIELDS = ("name", "metadata", "priority", "baseline", "export", "compression")
_IGNORED_TRAINING_FIELDS = (
    "seed", "epochs", "warmup_epochs", "learning_rate", "min_learning_rate", "weight_decay",
    "checkpoint_every_epochs", "keep_weights_every_epochs",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PreflightResult:
    """Measurements of a preflight. ``memory_bytes`` is the peak of the process, or of the device on CUDA.

    ``step_seconds`` is that of a step after the first, which includes one-time initialization.
    """

    step_seconds: float
    checkpoint_bytes: int
    memory_bytes: int

    def details(self, context: RunContext) -> dict[str, Any]:
        """Measurements with device and number of threads, as an event's data."""
        return asdict(self) | {"device": context.compute.device.type, "threads": context.threads}


def cached_preflight(
    spec: JobSpec, context: RunContext, run: Callable[[], PreflightResult], *, decode_size: int, refresh: bool
) -> PreflightResult:
    """Return the cached result of an equivalent earlier job; call ``run`` if there is none, or on ``refresh``."""
    cached = None if refresh else find_preflight(spec, context, decode_size=decode_size)
    if cached is not None:
        return cached
    result = run()
    context.result_cache.put(_KIND, _key_fields(spec, context, decode_size), asdict(result))
    return result


def find_preflight(spec: JobSpec, context: RunContext, *, decode_size: int) -> PreflightResult | None:
    """Return the cached result of an equivalent earlier job or attempt; None if there is none."""
    cached = context.result_cache.get(_KIND, _key_fields(spec, context, decode_size))
    return None if cached is None else PreflightResult(**cached)


def _key_fields(spec: JobSpec, context: RunContext, decode_size: int) -> dict[str, Any]:
    return {
        "spec": preflight_fields(spec),
        "dataset": context.stored.fingerprint,
        "decode_size": decode_size,
        "precision": context.compute.precision,
        "timed": "after the first step",
    }


def preflight_fields(spec: JobSpec) -> dict[str, Any]:
    """Return the part of a resolved spec that a preflight depends on."""
    document = {name: value for name, value in spec.model_dump(mode="json").items() if name not in _IGNORED_FIELDS}
    training = document["training"]
    document["training"] = {k: v for k, v in training.items() if k not in _IGNORED_TRAINING_FIELDS}
    document["resources"] = {k: v for k, v in document["resources"].items() if k != "max_seconds"}
    return document


def preflight(setup: TrainingSetup, scratch_dir: Path) -> PreflightResult:
    """Run two steps of ``setup`` with real data (up to four if they are quick), then write and read a checkpoint.

    The steps train copies of student and method, so ``setup`` does not change.

    Raises:
        SpecCannotRun: Student, teachers, method and data do not work together; the message says why.
        NonFiniteLoss: The loss of the first step is not finite.
    """
    setup_copy = replace(
        setup,
        student=replace(setup.student, module=copy.deepcopy(setup.student.module)),
        method=copy.deepcopy(setup.method),
    )
    folder = scratch_dir / "preflight"
    try:
        train_step = TrainStep(setup_copy)
        seconds = _time_steps(train_step)
        write_checkpoint(folder, train_step.state, step=1)
        checkpoint_bytes = sum(file.stat().st_size for file in folder.iterdir())
        read_checkpoint(folder, train_step.state)
    except BUILD_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise SpecCannotRun(
            f"one training step with a real batch failed: {type(error).__name__}: {error}. Student, teachers, method "
            "and image_size do not work together."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return PreflightResult(seconds, checkpoint_bytes, memory_bytes=_peak_memory(setup.compute.device))


def _time_steps(train_step: TrainStep) -> float:
    """Return the seconds of the fastest step after the first; of the only step if the training has no other."""
    first = _time_step(train_step, 0)
    timed: list[float] = []
    for step in range(1, min(_MAX_STEPS, train_step.schedule.total_steps)):
        if sum(timed) < _TIMED_SECONDS:
            timed.append(_time_step(train_step, step))
    return min(timed, default=first)


def _time_step(train_step: TrainStep, step: int) -> float:
    device = train_step.setup.compute.device
    start = time.perf_counter()
    train_step.run(step)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: kibibytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
