"""What every method is: a module that turns what student and teachers said of a batch into named losses.

A method is built twice for a job: on the meta device when its spec is resolved, so that a pair that it
cannot serve is refused at once, and for real when it runs. So ``__init__`` checks the anatomies of its
networks, and reads no weights unless it needs a copy of them.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from core.data.pixels import Pixels
from core.errors import FieldError, InvalidSpec
from core.models.built import BuiltModel
from core.models.structure import ModelStructure, structure_of
from core.models.student_variants import StudentVariant
from core.models.taps import FeatureRequest, Outputs


@dataclass(frozen=True, slots=True)
class Batch:
    """One augmented batch, as every network of the step sees it before its own preprocessing.

    ``images`` (B, C, H, W) in 0…1, ``labels`` (B,) int64 or (B, classes) probabilities, ``indices`` (B,)
    int64 on the CPU: the samples' places in the training split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    @property
    def hard_labels(self) -> Tensor:
        """One class a picture, (B,): the likelier one of a mixed picture."""
        return self.labels if self.labels.ndim == 1 else self.labels.argmax(dim=1)


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Where in the training a step is. ``step`` counts from 0, ``epoch`` is a fraction that grows to ``epochs``."""

    step: int = 0
    total_steps: int = 1
    epoch: float = 0.0
    epochs: int = 1

    @property
    def fraction(self) -> float:
        """How much of the training is done, 0…1."""
        return self.step / self.total_steps


class Teacher(Protocol):
    """A frozen network that answers without a gradient. ``built`` is for methods that run it in their own way."""

    @property
    def built(self) -> BuiltModel:
        """The network itself, frozen."""

    def __call__(self, images_BCHW: Tensor) -> Outputs:
        """What it says of augmented pictures in 0…1, as far as the method wanted it, in float32."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step can be taught with: the student as it is trained now, its teachers, and the time.

    ``answers`` looks up what the teachers said of the step's batch, where they were asked before.
    """

    student: Callable[[Tensor], Outputs]
    teachers: Sequence[Teacher]
    info: StepInfo
    cached_outputs: Callable[[Batch], list[Outputs]] | None = None

    def teacher_outputs(self, batch: Batch) -> list[Outputs]:
        """What each teacher says of the batch."""
        if self.cached_outputs is not None:
            return self.cached_outputs(batch)
        return [teacher(batch.images) for teacher in self.teachers]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSources:
    """Where pictures to train on can come from, once the teachers are there.

    ``pool`` is the unlabelled dataset that the parameters name. ``kept`` is a folder for what is made only
    once, shared by the attempts of a job; ``poll`` raises where the caller wants the run to leave.
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
    """What a method is built into: the networks as they are before training, and what the spec says of the data.

    The modules are on the meta device while a spec is resolved. ``num_samples`` is the size of the training
    split, ``num_classes`` is None where it has no labels. ``num_pool`` is the size of the dataset that the
    parameters name, if they do. ``student_has_weights`` is False where the student starts at random.
    """

    student: BuiltModel
    teachers: Sequence[BuiltModel] = ()
    num_classes: int | None = None
    num_samples: int = 1
    num_pool: int | None = None
    student_has_weights: bool = True
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    batch_size: int = 1
    seed: int = 0

    @property
    def student_structure(self) -> ModelStructure:
        """What the student has that can be tapped."""
        return structure_of(self.student)

    @property
    def teacher_structures(self) -> tuple[ModelStructure, ...]:
        """What the teachers have that can be tapped."""
        return tuple(structure_of(teacher) for teacher in self.teachers)


class Method(nn.Module, ABC):
    """A way to teach. Its parameters are trained with the student and never exported.

    One file a method. The training loop knows methods only by this interface. ``student_taps`` and
    ``teacher_taps`` say what is tapped; set them in ``__init__``. So is ``num_images``, how many pictures
    :meth:`gather` will return; None where it returns none. ``per_sample`` says whether the loss is a mean of what
    each sample says by itself; a method that compares the samples of a batch sets it to False, and is then trained
    on one device alone. (Batch norms do not count: they are the networks' own.)
    """

    held_out: ClassVar[float] = 0.0
    """The part of the training split that is kept from training, for what has to be chosen at the end."""
    uses_cached_outputs: ClassVar[bool] = False
    """With ``terms`` of its own: whether they ask teachers by ``room.taught`` of the step's batch and no other way."""

    def __init__(self, setting: MethodContext) -> None:
        super().__init__()
        self.label_smoothing = setting.label_smoothing
        self.student_taps = FeatureRequest()
        self.teacher_taps = FeatureRequest()
        self.num_images: int | None = None
        self.per_sample = True
        self.top_k: int | None = None  # it sees no more of a teacher than so many likeliest classes
        self.teacher_fraction = 1.0  # of the training; after it, no teacher is asked any more

    @property
    def teacher_request(self) -> FeatureRequest:
        """All that its teachers are asked for."""
        return replace(self.teacher_taps, logits=self.reads_teacher_logits)

    @property
    def reads_teacher_logits(self) -> bool:
        """Whether teachers' logits play a part, beside what is tapped."""
        return True

    @property
    def cacheable(self) -> bool:
        """Whether all that it takes from its teachers is what they say of the training split as each view shows it.

        Then they may have been asked before, and elsewhere.
        """
        own_terms = type(self).terms is not Method.terms
        return self.num_images is None and (self.uses_cached_outputs or not own_terms)

    @classmethod
    def student_variant(
        cls, params: Any, student: ModelStructure, teachers: Sequence[ModelStructure]
    ) -> StudentVariant | None:
        """The form that the asked student takes with this method; None leaves it as it is.

        Raises ``InvalidSpec`` where it cannot take it.
        """
        return None

    def prepare_images(self, sources: ImageSources) -> Pixels | None:
        """The pictures to train on, where they are not the training split. The same ones on every attempt."""
        return None

    def prepare_student(self, student: nn.Module) -> None:
        """Put the student into the state that this method trains, each time it was built or loaded."""

    def terms(self, batch: Batch, room: StepContext) -> dict[str, Tensor]:
        """The weighted terms of one step's loss by name, float32 scalars; their sum is what is minimised."""
        teachers = room.teacher_outputs(batch)
        return self.loss(batch, room.student(batch.images), teachers, room.info)

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], moment: StepInfo) -> dict[str, Tensor]:
        """:meth:`terms` of what student and teachers said of the batch; enough for most methods."""
        raise NotImplementedError(f"{type(self).__name__} defines neither loss nor terms")

    def after_step(self, student: nn.Module, moment: StepInfo) -> None:
        """What changes after each step of the optimiser, without a gradient. Buffers are kept in checkpoints."""

    def finalize(self, student: BuiltModel, held_out: Pixels | None) -> BuiltModel:
        """The model that is evaluated and exported, from the student at the end of its training, on the CPU."""
        return student

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of ``logits`` (B, C) with the batch's labels, smoothed as the spec says."""
        return F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.label_smoothing)


def warmup_factor(moment: StepInfo, epochs: float) -> float:
    """A factor that grows linearly from 0 to 1 over so many epochs; the first step counts as done."""
    if epochs <= 0:
        return 1.0
    a_step = moment.epochs / moment.total_steps
    return min(1.0, (moment.epoch + a_step) / epochs)


def invalid_param(parameter: str, detail: str) -> InvalidSpec:
    """The error of one of the method's parameters; an empty name points at the method itself."""
    pointer = f"/method/{parameter}" if parameter else "/method"
    return InvalidSpec(f"{pointer}: {detail}", errors=[FieldError(pointer, detail)])


def invalid_architecture(whose: str, detail: str) -> InvalidSpec:
    """The error of a network that cannot give what a method needs; ``whose`` is ``student`` or ``teachers/0``."""
    pointer = f"/{whose}/architecture"
    return InvalidSpec(f"{pointer}: {detail}", errors=[FieldError(pointer, detail)])
