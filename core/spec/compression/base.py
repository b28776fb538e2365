"""Base classes of the parameters of compression steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from core.spec.document import StrictModel
from core.spec.methods.base import MethodParams
from core.spec.methods.kd import KdParams


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Description of a kind of compression step.

    ``writes_file``: the step writes a file of the network that earlier steps left, and the network itself does not
    change. Otherwise the step returns another network, which the steps after it continue with.
    """

    summary: str
    writes_file: bool


class StepParams(StrictModel):
    """Base of the parameters of every compression step; ``name`` is the discriminator in JSON."""

    info: ClassVar[StepInfo]
    name: str
    max_top1_drop: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Largest accepted loss of top-1 accuracy, as a fraction, on the tenth of the training split that "
        "is held out. A step that loses more is rejected, and its output is not published.",
    )

    @property
    def output(self) -> str:
        """Name of what the step writes: a file such as ``model.int8.onnx``, or a folder with a network's files."""
        raise NotImplementedError(f"{type(self).__name__} has no output")

    @property
    def training_epochs(self) -> int:
        """Epochs that the step trains the network; 0 for none."""
        return 0


class FineTuningParams(StepParams):
    """Parameters of steps that train the network with distillation."""

    epochs: int = Field(
        default=5,
        ge=0,
        le=10_000,
        description="Epochs of fine-tuning with distillation, over the student's training images. 0: none.",
    )
    learning_rate: float = Field(
        default=1e-4, gt=0, le=10, description="Peak rate of the fine-tuning; cosine schedule, a warm-up of one epoch."
    )
    temperature: float = Field(default=4.0, gt=0, le=100, description="Temperature of the fine-tuning's distillation.")
    alpha: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Weight of the teachers' soft labels in the fine-tuning; the labels have 1 − alpha. Without labels "
        "it is 1.",
    )

    def fine_tuning_method(self, *, is_labeled: bool) -> MethodParams:
        """Return the method of the fine-tuning: ``kd``, which fits any network with the teachers' classes."""
        return KdParams(name="kd", temperature=self.temperature, alpha=self.alpha if is_labeled else 1.0)

    @property
    def training_epochs(self) -> int:
        """The parameter ``epochs``."""
        return self.epochs


class ReshapingParams(FineTuningParams):
    """Parameters of steps that change the shape of the network, and so train it for longer."""

    epochs: int = Field(
        default=20,
        ge=0,
        le=10_000,
        description="Epochs of fine-tuning with distillation, over the student's training images. 0: none.",
    )
    learning_rate: float = Field(
        default=5e-4, gt=0, le=10, description="Peak rate of the fine-tuning; cosine schedule, a warm-up of one epoch."
    )
