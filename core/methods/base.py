"""The interface of a distillation method: a module that turns student and teacher outputs into named loss terms.

A method is built twice per job: on the meta device when the spec is resolved, so that an unsupported pair of
networks is rejected early, and with real weights for the training. ``__init__`` therefore checks the networks'
structures and reads no weights unless it copies them.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from core.data.pixels import Pixels
from core.errors import InvalidSpec
from core.losses import labeled_cross_entropies
from core.models.built import BuiltModel
from core.models.structure import ModelStructure, structure_of
from core.models.student_variants import StudentVariant
from core.models.taps import FeatureRequest, Outputs
from core.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Batch:
    """One augmented batch, before each network's own preprocessing.

    ``images`` (B, C, H, W) in 0…1, ``labels`` (B,) int64 or (B, classes) probabilities, ``indices`` (B,)
    int64 on the CPU: positions of the samples in the training split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    @property
    def hard_labels(self) -> Tensor:
        """One class per image, (B,) int64; the most probable class where images are mixed."""
        return self.labels if self.labels.ndim == 1 else self.labels.argmax(dim=1)


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Position of a step in the training. ``step`` counts from 0; ``epoch`` is fractional and grows to ``epochs``."""

    step: int = 0
    total_steps: int = 1
    epoch: float = 0.0
    epochs: int = 1

    @property
    def fraction(self) -> float:
        """Completed fraction of the training, 0…1."""
        return self.step / self.total_steps


class Teacher(Protocol):
    """A frozen network, called without gradients."""

    @property
    def built(self) -> BuiltModel:
        """The frozen network itself, for methods that run it in their own way."""

    def __call__(self, images_BCHW: Tensor) -> Outputs:
        """Run augmented images in 0…1; return the outputs that the method requested, in float32."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """Inputs of one training step: the student under training, its teachers and the position in the training.

    ``cached_outputs`` returns the teacher outputs of the step's batch from the teacher cache, where one is used.
    """

    student: Callable[[Tensor], Outputs]
    teachers: Sequence[Teacher]
    info: StepInfo
    cached_outputs: Callable[[Batch], list[Outputs]] | None = None

    def teacher_outputs(self, batch: Batch) -> list[Outputs]:
        """Outputs of each teacher for the batch, from the teacher cache where one is used."""
        if self.cached_outputs is not None:
            return self.cached_outputs(batch)
        return [teacher(batch.images) for teacher in self.teachers]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSources:
    """Sources of training images, available once the teachers are loaded.

    ``unlabeled_pool`` is the unlabeled dataset that the parameters name. ``cache_dir`` is shared by the attempts of
    a job and holds results that are computed once. ``poll`` raises when the run has to stop. ``event`` records
    (kind, message, data).
    """

    train: Pixels
    unlabeled_pool: Pixels | None
    teachers: Sequence[Teacher]
    seed: int
    cache_dir: Path
    poll: Callable[[], None]
    event: Callable[[str, str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodContext:
    """Inputs of a method's constructor: the networks before training, and properties of dataset and training.

    The modules are on the meta device while a spec is resolved. ``num_samples`` is the number of training images;
    ``labeled_fraction`` of them have labels, where labels are read. ``num_classes`` is None where none has.
    ``num_pool`` is the size of the unlabeled dataset that the parameters name, if any. ``student_has_weights`` is False
    where the student starts from random weights.
    """

    student: BuiltModel
    teachers: Sequence[BuiltModel] = ()
    num_classes: int | None = None
    num_samples: int = 1
    labeled_fraction: float = 1.0
    num_pool: int | None = None
    student_has_weights: bool = True
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    batch_size: int = 1
    seed: int = 0

    @classmethod
    def from_spec(
        cls,
        spec: JobSpec,
        *,
        student: BuiltModel,
        teachers: Sequence[BuiltModel],
        num_classes: int | None,
        num_samples: int,
        labeled_fraction: float,
        num_pool: int | None,
    ) -> MethodContext:
        """Build the context of the job's method from its networks and data sizes."""
        return cls(
            student=student,
            teachers=teachers,
            num_classes=num_classes,
            num_samples=num_samples,
            labeled_fraction=labeled_fraction,
            num_pool=num_pool,
            student_has_weights=spec.student.weights != "random",
            label_smoothing=spec.training.label_smoothing,
            drop_path=spec.training.drop_path,
            batch_size=spec.training.batch_size,
            seed=spec.training.seed,
        )

    @property
    def student_structure(self) -> ModelStructure:
        """The student's levels, attentions and embedding."""
        return structure_of(self.student)

    @property
    def teacher_structures(self) -> tuple[ModelStructure, ...]:
        """The same of each teacher."""
        return tuple(structure_of(teacher) for teacher in self.teachers)


class Method(nn.Module, ABC):
    """A distillation method. Its own parameters are trained with the student and never exported.

    There is one file per method, and the trainer knows methods only by this interface. A subclass implements
    :meth:`loss`, or :meth:`terms` where it runs the networks itself, and sets these attributes in ``__init__``:

    Attributes:
        student_taps: Features that the student returns in addition to its logits.
        teacher_taps: Features that each teacher returns in addition to its logits.
        num_images: Number of images that :meth:`prepare_images` returns; None to train on the training split.
        per_sample: True where the loss is a mean of independent per-sample losses. A method that compares the
            samples of a batch sets False and trains on a single device. Batch norms of the networks do not count.
        top_k: Number of most probable classes of a teacher that the loss reads; None for all.
        teacher_fraction: Fraction of the training, from its start, in which teachers are used.
        constant_rates: Learning rates of parameters of the method, by name, that follow neither the schedule nor the
            weight decay of the training.
        num_statistics_batches: Number of batches, up to one epoch, whose teacher outputs
            :meth:`prepare_training` reads; 0 for none.
    """

    uses_cached_outputs: ClassVar[bool] = False
    """Set by methods that override :meth:`terms`: True where ``step.teacher_outputs(batch)`` is their only call of
    teachers. Parts of a teacher's module may run in a step."""

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        self.label_smoothing = context.label_smoothing
        self.labeled_fraction = context.labeled_fraction
        self.student_taps = FeatureRequest()
        self.teacher_taps = FeatureRequest()
        self.num_images: int | None = None
        self.per_sample = True
        self.top_k: int | None = None
        self.teacher_fraction = 1.0
        self.constant_rates: dict[str, float] = {}
        self.num_statistics_batches = 0

    @property
    def teacher_request(self) -> FeatureRequest:
        """Everything requested of each teacher: ``teacher_taps``, and logits where the loss reads them."""
        return replace(self.teacher_taps, logits=self.reads_teacher_logits)

    @property
    def reads_teacher_logits(self) -> bool:
        """Whether the loss reads the teachers' logits."""
        return True

    @property
    def balanceable(self) -> bool:
        """Whether there are terms of the labels and other ones, which ``training.balance`` can balance."""
        return True

    @property
    def cacheable(self) -> bool:
        """Whether teacher outputs can be computed ahead of the training and read from the teacher cache.

        True where the method reads nothing of its teachers but their outputs for the views of the training split.
        """
        own_terms = type(self).terms is not Method.terms
        return self.num_images is None and (self.uses_cached_outputs or not own_terms)

    @classmethod
    def student_variant(
        cls, params: Any, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant | None:
        """The variant of the requested student that this method trains; None keeps the student unchanged.

        Raises ``InvalidSpec`` where the student has no such variant.
        """
        return None

    def prepare_images(self, sources: ImageSources) -> Pixels | None:
        """The images to train on, if other than the training split. Every attempt of a job gets the same images."""
        return None

    def prepare_student(self, student: nn.Module) -> None:
        """Set the student up for this method's training. Called each time the student is built or loaded."""

    def prepare_training(self, teacher_outputs: Iterable[Sequence[Outputs]]) -> None:
        """Estimate state from teacher outputs for the first batches, before the first step, without gradients.

        Each element has the outputs of all teachers for one batch. The state belongs in buffers, which checkpoints
        save: a resumed training does not call this again.
        """

    def terms(self, batch: Batch, step: StepContext) -> dict[str, Tensor]:
        """The weighted loss terms of one step by name, float32 scalars; their sum is minimized.

        Terms that compare with the labels are named as :func:`is_label_term` says.
        """
        teachers = step.teacher_outputs(batch)
        return self.loss(batch, step.student(batch.images), teachers, step.info)

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """:meth:`terms` from the outputs of student and teachers for the batch. Sufficient for most methods."""
        raise NotImplementedError(f"{type(self).__name__} defines neither loss nor terms")

    def test_metrics(self, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """Metrics of each image of a batch of the test split, (B,) by name; their means are reported. None by default.

        Only methods without a classifier are asked, in evaluation mode and without gradients.
        """
        return {}

    def after_step(self, student: nn.Module, info: StepInfo) -> None:
        """Update the method's state after each optimizer step, without gradients. Buffers are saved in checkpoints."""

    def export_candidates(self, student: BuiltModel) -> tuple[BuiltModel, ...]:
        """The trained networks that :meth:`finalize` can return."""
        return (student,)

    def finalize(self, student: BuiltModel, held_out: Pixels | None) -> BuiltModel:
        """Turn the trained student into the model that is evaluated and exported, on the CPU.

        ``held_out``: the images that the parameters hold out of the training (``held_out_fraction``); None if none are.
        """
        return student

    def label_term(self, weight: float, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The weighted term ``label``; none for weight 0, so that the images need no labels."""
        return {"label": weight * self.label_loss(logits, batch)} if weight > 0 else {}

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of ``logits`` (B, C) with the batch's labels, with the spec's label smoothing.

        The mean over the images that have a label. It divides by their expected number in a batch, so that every image
        has the same weight in each batch and on each device.
        """
        if self.labeled_fraction == 1:
            return F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.label_smoothing)
        losses_B = labeled_cross_entropies(logits.float(), batch.labels, label_smoothing=self.label_smoothing)
        return losses_B.mean() / self.labeled_fraction


def is_label_term(name: str) -> bool:
    """Whether a loss term of this name compares with the labels: ``label``, or a name that ends with ``_label``."""
    return name == "label" or name.endswith("_label")


def warmup_factor(info: StepInfo, epochs: float) -> float:
    """Factor that grows linearly from 0 to 1 over ``epochs`` epochs; the first step counts as completed."""
    if epochs <= 0:
        return 1.0
    epochs_per_step = info.epochs / info.total_steps
    return min(1.0, (info.epoch + epochs_per_step) / epochs)


def invalid_param(parameter: str, detail: str) -> InvalidSpec:
    """Error for one of the method's parameters; an empty name points at the method itself."""
    pointer = f"/method/{parameter}" if parameter else "/method"
    return InvalidSpec.for_field(pointer, detail)


def invalid_architecture(model_field: str, detail: str) -> InvalidSpec:
    """Error for a network that lacks a feature the method needs; ``model_field`` is ``student`` or ``teachers/0``."""
    return InvalidSpec.for_field(f"/{model_field}/architecture", detail)
