"""One real step before the long part, on copies: what cannot work or does not fit fails in seconds."""

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
from core.models.weights import REFUSALS
from core.spec import JobSpec
from core.train.checkpoint import read_checkpoint, write_checkpoint
from core.train.context import RunContext
from core.train.environment import is_out_of_memory
from core.train.trainer import TrainingSetup, TrainStep

_QUICK_SECONDS = 0.5
_WARM_STEPS = 4


# Of a resolved spec: what no step fails at, whatever it says. A loss that is not finite is found by the training.
_OF_NO_WEIGHT = ("name", "metadata", "priority", "export", "compression")
_OF_NO_WEIGHT_IN_TRAINING = (
    "seed", "epochs", "warmup_epochs", "learning_rate", "min_learning_rate", "weight_decay",
    "checkpoint_every_epochs", "keep_weights_every_epochs",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PreflightResult:
    """What a probe measured. ``memory_bytes`` is the peak of the process, or of the device on CUDA."""

    step_seconds: float
    checkpoint_bytes: int
    memory_bytes: int

    def details(self, context: RunContext) -> dict[str, Any]:
        """The figures, and where they were measured."""
        return asdict(self) | {"device": context.compute.device.type, "threads": context.threads}


def preflight_once(
    spec: JobSpec, context: RunContext, run: Callable[[], PreflightResult], *, anew: bool
) -> PreflightResult:
    """What ``run`` finds; unless ``anew``, what it found for an earlier job that a probe cannot tell from this one."""
    of = {
        "spec": probed_part(spec),
        "pictures": context.stored.fingerprint,
        "precision": context.compute.precision,
    }
    known = None if anew else context.result_cache.find("probe", of)
    if known is not None:
        return PreflightResult(**known)
    probed = run()
    context.result_cache.keep("probe", of, asdict(probed))
    return probed


def probed_part(spec: JobSpec) -> dict[str, Any]:
    """What of a resolved spec a probe depends on."""
    document = {name: value for name, value in spec.model_dump(mode="json").items() if name not in _OF_NO_WEIGHT}
    training = document["training"]
    document["training"] = {k: v for k, v in training.items() if k not in _OF_NO_WEIGHT_IN_TRAINING}
    document["resources"] = {k: v for k, v in document["resources"].items() if k != "max_seconds"}
    return document


def preflight(task: TrainingSetup, scratch: Path) -> PreflightResult:
    """Take a step of ``task`` with real data (a few, where they are quick), write a checkpoint and read it back.

    ``task`` is left as it was: steps are taken by copies of its student and method.

    Raises:
        SpecCannotRun: Student, teachers, method and data do not work together; says why.
        NonFiniteLoss: The very first loss is not finite.
    """
    copied = replace(
        task,
        student=replace(task.student, module=copy.deepcopy(task.student.module)),
        method=copy.deepcopy(task.method),
    )
    folder = scratch / "probe"
    try:
        stepper = TrainStep(copied)
        seconds = _timed(stepper, 0)
        # The first steps also pay for what is set up once.
        for step in range(1, min(_WARM_STEPS, stepper.schedule.total_steps)):
            if seconds < _QUICK_SECONDS:
                seconds = min(seconds, _timed(stepper, step))
        write_checkpoint(folder, stepper.trained, step=1)
        size = sum(file.stat().st_size for file in folder.iterdir())
        read_checkpoint(folder, stepper.trained)
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        raise SpecCannotRun(
            f"one training step with a real batch failed: {type(error).__name__}: {error}. Student, teachers, method "
            "and image_size do not work together."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return PreflightResult(step_seconds=seconds, checkpoint_bytes=size, memory_bytes=_peak_memory(task.compute.device))


def _timed(stepper: TrainStep, step: int) -> float:
    began = time.perf_counter()
    stepper.run(step)
    return time.perf_counter() - began


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts kibibytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
