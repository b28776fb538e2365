"""The interface of a compression step.

A step takes the network that earlier steps left, and returns a smaller network or writes a file of it. The pipeline
evaluates what it returns on held-out images, and rejects what loses too much; see :mod:`core.compress.compression`.

A new step takes one file in this folder with a class derived from :class:`CompressionStep`, its parameters in
``core.spec.compression``, and one line in that package's registry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from core.data.pixels import Pixels
from core.errors import FieldError
from core.job_warnings import JobWarning
from core.models.built import BuiltModel
from core.spec import JobSpec
from core.spec.compression import FineTuningParams, StepParams

Params = TypeVar("Params", bound=StepParams)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """Inputs of the checks and of the estimate of a step, before the job runs.

    Args:
        index: Position of the step in ``spec.compression``.
        student: The student on the meta device. Earlier steps of the job may change it.
        num_images: Training images, without those that are held out.
        num_held_out: Images on which the step is judged.
    """

    spec: JobSpec
    index: int
    student: BuiltModel
    num_images: int
    num_held_out: int

    def follows(self, *names: str) -> bool:
        """Whether an earlier step of the job has one of these names."""
        return any(step.name in names for step in self.earlier)

    @property
    def earlier(self) -> tuple[StepParams, ...]:
        """The steps before this one."""
        return self.spec.compression[: self.index]

    def pointer(self, name: str = "") -> str:
        """JSON Pointer to the step, or to one of its parameters."""
        return f"/compression/{self.index}" + (f"/{name}" if name else "")


@dataclass(slots=True)
class StepProblems:
    """Problems of a step that are known before the job runs: errors refuse the spec, warnings do not."""

    errors: list[FieldError] = field(default_factory=list)
    warnings: list[JobWarning] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StepCost:
    """Cost of a step: passes over images by the network, epochs of its training, and other seconds."""

    forward_images: int = 0
    training_epochs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """Inputs of a step.

    Args:
        index: Position of the step in ``spec.compression``.
        student: The network that earlier steps left: on the CPU, in evaluation mode. The step may change it.
        folder: Empty scratch folder of the step.
        training: Training images at the student's image size, without those that are held out.
        held_out: Held-out images at the student's image size. Their labels are the student's own predictions if the
            dataset has none.
        reference_top1: Top-1 accuracy of ``student`` on ``held_out``, 0…1.
        top1: Top-1 accuracy of another network on ``held_out``, 0…1.
        once: Return the output of a function; a later attempt gets the saved one. For networks that a training starts
            from: its checkpoints fit only a network of the same shapes.
        fine_tune: Train a network with distillation in place, and return it in evaluation mode on the CPU; see
            :class:`core.compress.fine_tuning.FineTuning`.
        report: Add an event to the job's log: type, message, data.
        poll: Call it during long work; it may raise to interrupt.
    """

    spec: JobSpec
    index: int
    student: BuiltModel
    folder: Path
    training: Pixels
    held_out: Pixels
    reference_top1: float
    top1: Callable[[BuiltModel], float]
    once: Callable[[Callable[[], StepOutput]], StepOutput]
    fine_tune: Callable[[BuiltModel, FineTuningParams], BuiltModel]
    report: Callable[[str, str, Mapping[str, Any]], None]
    poll: Callable[[], None]

    @property
    def seed(self) -> int:
        """Seed of all random draws of the step."""
        return self.spec.training.seed

    def accepts(self, top1: float, params: StepParams) -> bool:
        """Whether the gate accepts this accuracy on ``held_out``."""
        return drop(self.reference_top1, top1) <= params.max_top1_drop


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Output of a step: a network, or an ONNX file of one in the step's folder.

    Exactly one of ``network`` and ``file`` is set. ``details`` go to the report; they are JSON.
    """

    network: BuiltModel | None = None
    file: Path | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class CompressionStep(ABC, Generic[Params]):
    """One step. Equal inputs give an output with the same bits, on the same machine with the same threads."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def check(self, plan: StepPlan, problems: StepProblems) -> None:
        """Add what is known to be wrong with the step, before the job is queued. Takes milliseconds."""

    def cost(self, plan: StepPlan) -> StepCost:  # noqa: ARG002 - for subclasses
        """Estimate the step's cost, without the evaluation of its output."""
        return StepCost(training_epochs=self.params.training_epochs)

    @abstractmethod
    def run(self, inputs: StepInputs) -> StepOutput:
        """Compress ``inputs.student``.

        Raises:
            ExportFailed: The step cannot be applied to this network; the job goes on without it.
            StorageFailed: The disk failed.
            Interrupted: The job was interrupted.
        """


def drop(reference_top1: float, top1: float) -> float:
    """Loss of accuracy, rounded to remove the error of the subtraction: 0.9 − 0.89 is more than 0.01."""
    return round(reference_top1 - top1, 9)
