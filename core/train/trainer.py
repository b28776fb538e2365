"""The training loop: students and teachers alike, whatever the method."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from core.errors import NonFiniteLoss
from core.methods.base import Batch, Method, StepContext, StepInfo, Teacher
from core.models.built import BuiltModel
from core.models.taps import Outputs, run_tapped
from core.reporting import Control, Interrupted, Reporter, SavedCheckpoint
from core.seeds import derive_seed, seed_generators, step_seed
from core.spec import TrainingBase, TrainingSpec
from core.train.async_metrics import LAG_STEPS, MetricQueue, StepMetrics
from core.train.checkpoint import TrainState, read_checkpoint, write_checkpoint
from core.train.ema import Ema
from core.train.loader import BatchLoader
from core.train.optimizer import build_optimizer, clip_gradients, gradient_norm
from core.train.precision import ComputeConfig
from core.train.process_group import SINGLE_PROCESS, ProcessGroup, synchronised
from core.train.progress import ProgressLogger, Track
from core.train.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPolicy:
    """When checkpoints are written, besides the end and an interruption. Seconds are of wall clock."""

    every_epochs: int = 1
    keep_every_epochs: int | None = None
    every_seconds: float = 300.0
    least_seconds: float = 2.0  # tiny trainings would spend their time on saving

    @classmethod
    def of(cls, training: TrainingSpec) -> Self:
        """As a student's training block asks."""
        return cls(every_epochs=training.checkpoint_every_epochs, keep_every_epochs=training.keep_weights_every_epochs)


@dataclass(frozen=True, slots=True)
class ValidationCallback:
    """A look at the student now and then, for display alone: nothing is decided by it."""

    name: str
    every_epochs: int
    measure: Callable[[Callable[[Tensor], Tensor]], float]  # given pictures in 0…1 to logits


class TeacherOutputSource(Protocol):
    """What the teachers said, where they are asked ahead of the training."""

    def load_step(self, step: int) -> None:
        """Have the answers for a step's batch at hand. Raises ``Interrupted`` where the caller wants anything."""

    def for_batch(self, batch: Batch) -> list[Outputs]:
        """What each teacher said of the batch of the step that was made ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """All that makes a training what it is. ``student`` and ``method`` are changed by it.

    ``asked``: None where the teachers are asked about every batch as it comes.
    """

    training: TrainingBase
    student: BuiltModel
    method: Method
    teachers: Sequence[Teacher]
    loader: BatchLoader
    compute: ComputeConfig
    ema: float | None = None
    teacher_outputs: TeacherOutputSource | None = None


class TrainStep:
    """One training's moving parts, and a single step of it.

    ``lag``: how many steps further the host is when it reads what a step measured; None is what suits the device.
    Without a lag it looks before the step is taken. With one, the device itself leaves out the first step that is
    not finite and all behind it, and the host is told when it reads; :meth:`settled` comes before anything that is
    kept or shown.
    """

    def __init__(self, task: TrainingSetup, *, ranks: ProcessGroup = SINGLE_PROCESS, lag: int | None = None) -> None:
        self.task = task
        self.ranks = ranks
        self.schedule = Schedule.of(task.training, steps_per_epoch=task.loader.steps_per_epoch)
        self._device = task.compute.device
        module = synchronised(task.student.module.to(self._device), ranks, self._device)
        synchronised(task.method.to(self._device), ranks, self._device)
        task.method.prepare_student(module)
        self.trained = TrainState(
            student=module,
            method=task.method,
            optimizer=build_optimizer(
                [module, task.method],
                learning_rate=task.training.learning_rate,
                weight_decay=task.training.weight_decay,
            ),
            ema=None if task.ema is None else Ema(module, task.ema),
        )
        self._parameters = [p for g in self.trained.optimizer.param_groups for p in g["params"]]
        self._terms = ranks.terms(module, task.method)
        # Each rank drops other units of its own pictures.
        self._step_seeds = derive_seed(task.training.seed, f"steps-{ranks.rank}" if ranks.rank else "steps")
        self._readings = MetricQueue(LAG_STEPS[self._device.type] if lag is None else lag)
        self._read: list[StepMetrics] = []
        self._poisoned: Tensor | None = None
        if self._readings.lag > 0:
            self._poisoned = torch.zeros((), device=self._device)
            # What GradScaler sets: where it is 1, the fused step changes nothing.
            self.trained.optimizer.found_inf = self._poisoned  # type: ignore[attr-defined]
        self.train_mode()

    def train_mode(self) -> None:
        """Switch student and method to training."""
        self.trained.student.train()
        self.trained.method.train()

    def run(self, step: int) -> dict[str, float]:
        """:meth:`queue` a step and wait for its measurements."""
        self.enqueue(step)
        return self.drain_all()[-1].values()

    def enqueue(self, step: int) -> None:
        """Take step ``step`` (counted from 0); without waiting for the device, where reading lags.

        Raises:
            NonFiniteLoss: A term of the loss or the gradient is not finite, of this step or of one that was still to
                be read; its step was not taken.
        """
        task = self.task
        seed_generators(step_seed(self._step_seeds, step), self._device)
        share, batch, moment = task.loader.batch_fraction(step), task.loader.batch(step), self.moment(step)
        answers = None if task.teacher_outputs is None else task.teacher_outputs.for_batch
        terms = self._terms(batch, StepContext(self._ask_student, task.teachers, moment, answers))
        loss = torch.stack(tuple(terms.values())).sum()
        for parameter in self._parameters:  # as zero_grad does, without its bookkeeping
            parameter.grad = None
        torch.autograd.backward(loss if self.ranks.size == 1 else loss * self.ranks.factor(share))
        # A parameter that took no part in this step has no gradient.
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = gradient_norm(gradients)
        rate = self.schedule.rate(step)
        measured = self.ranks.whole(torch.stack((*terms.values(), loss)).detach(), share)
        self._readings.put(step, tuple(terms), torch.cat((measured, norm.detach().view(1))), learning_rate=rate)
        if self._poisoned is not None:
            self._poisoned.logical_or_(~torch.isfinite(measured[-1] + norm))
        self._keep(self._readings.due())
        self._apply(gradients, norm, rate)
        task.method.after_step(self.trained.student, moment)
        if self.trained.ema is not None:
            self.trained.ema.update()

    def drain_ready(self) -> list[StepMetrics]:
        """What was read since this was asked last, in the order of the steps."""
        read, self._read = self._read, []
        return read

    def drain_all(self) -> list[StepMetrics]:
        """The same of all steps that were taken; waits for the device. Raises ``NonFiniteLoss``."""
        self._keep(self._readings.rest())
        return self.drain_ready()

    def _keep(self, readings: Iterable[StepMetrics]) -> None:
        for reading in readings:
            if not math.isfinite(reading.loss + reading.gradient_norm):
                raise _not_finite(reading, self.schedule.epoch(reading.step))
            self._read.append(reading)

    def _apply(self, gradients: list[Tensor], norm: Tensor, rate: float) -> None:
        limit = self.task.training.gradient_clip
        if limit is not None:
            clip_gradients(gradients, norm, limit)
        for group in self.trained.optimizer.param_groups:
            group["lr"] = rate
        self.trained.optimizer.step()

    def moment(self, step: int) -> StepInfo:
        """Where in the training a step is."""
        return StepInfo(
            step=step,
            total_steps=self.schedule.total_steps,
            epoch=step / self.schedule.steps_per_epoch,
            epochs=self.task.training.epochs,
        )

    def _ask_student(self, images_BCHW: Tensor) -> Outputs:
        """What the student says, in the precision of the training; inner tensors as far as the method wants them."""
        built = self.task.student
        with self.task.compute.forward_context():
            return run_tapped(built.module, built.preprocessing(images_BCHW), self.task.method.student_taps)

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """What the weights that count now say of pictures in 0…1, as at inference. Needs :meth:`evaluating`."""
        student = self.task.student
        inputs = student.preprocessing(images_BCHW.to(self._device))
        with self.task.compute.forward_context():
            if self.trained.ema is None:
                answer: Tensor = student.module(inputs)
            else:
                answer = torch.func.functional_call(student.module, self.trained.ema.weights, (inputs,))
        return answer.float()

    def measure(self, watch: ValidationCallback) -> float:
        """Look at the student as it would be exported now, and go back to training."""
        self.trained.student.eval()
        try:
            with torch.no_grad():  # not inference mode: what a model caches then could not be trained with
                return watch.measure(self.logits)
        finally:
            self.train_mode()

    def finalize_weights(self) -> None:
        """End the training: the weights that count become the student's own, in evaluation mode."""
        if self.trained.ema is not None:
            self.trained.student.load_state_dict(self.trained.ema.weights)
        self.trained.student.eval()


class Trainer:
    """Runs a training to its end, to a stop or to an interruption; saves and resumes it."""

    def __init__(
        self,
        task: TrainingSetup,
        *,
        track: Track,
        reporter: Reporter,
        scratch: Path,
        saving: CheckpointPolicy | None = None,
        watch: ValidationCallback | None = None,
        ranks: ProcessGroup = SINGLE_PROCESS,
        lag: int | None = None,
    ) -> None:
        self.stepper = TrainStep(task, ranks=ranks, lag=lag)
        self.schedule = self.stepper.schedule
        self.step = 0
        self._track = track
        self._reporter = reporter
        self._scratch = scratch
        self._saving = saving or CheckpointPolicy()
        self._watch = watch
        self._recorder = ProgressLogger(reporter, track, self.schedule, task.loader.batch_size)
        self._saved_step = 0
        self._saved_at = time.monotonic()
        self._latest: dict[str, float] = {}

    def resume(self, checkpoint: Path | None) -> None:
        """Go on from a checkpoint of this track; None is the start. Raises ``StorageFailed`` if it cannot be read."""
        if checkpoint is None:
            return
        self.step = self._saved_step = read_checkpoint(checkpoint, self.stepper.trained)
        self._reporter.event(
            "training.resumed",
            f"{self._track.name} goes on from step {self.step} of {self.schedule.total_steps}",
            data={"track": self._track.name, "step": self.step},
        )

    def run(self) -> bool:
        """Train to the last step, from where a checkpoint left off.

        Returns whether the last step was reached; False after a stop on request.

        Raises:
            Interrupted: On request, with a checkpoint saved.
            NonFiniteLoss: The loss left the numbers; the step that did it was not taken.
        """
        self._recorder.begin(self.step)
        while self.step < self.schedule.total_steps:
            control = self._control()
            if control is not Control.GO:
                self._recorder.progress(self.step, force=True)
                self.save()
                if control is Control.STOP:
                    self._stopped()
                    return False
                raise Interrupted(control)
            self.stepper.enqueue(self.step)
            self.step += 1
            self._tell(self.stepper.drain_ready())
            self._recorder.progress(self.step)
            self._after_step()
        self._recorder.progress(self.step, force=True)
        self.save()
        return True

    def save(self, *, keep: bool = False) -> None:
        """Write a checkpoint, unless the newest one is of this very step. Raises ``NonFiniteLoss``: nothing is kept."""
        self._tell(self.stepper.drain_all())
        if self.step == self._saved_step and not keep:
            return
        folder = self._scratch / f"{self._track.name}-{self.step:09d}"
        write_checkpoint(folder, self.stepper.trained, step=self.step)
        self._recorder.progress(self.step, force=True)
        epoch = self.schedule.epoch(self.step)
        self._reporter.save_checkpoint(
            SavedCheckpoint(folder, self._track.name, self.step, epoch, metrics=dict(self._latest), keep=keep)
        )
        shutil.rmtree(folder, ignore_errors=True)  # the caller has stored it, by moving or by copying
        self._saved_step, self._saved_at = self.step, time.monotonic()

    def _control(self) -> Control:
        """What to do next, once the answers of the teachers for the next step are at hand."""
        control = self._reporter.control()
        asked, taught = self.stepper.task.teacher_outputs, self.stepper.task.method.teacher_fraction
        if control is Control.GO and asked is not None and self.stepper.moment(self.step).fraction < taught:
            try:
                asked.load_step(self.step)
            except Interrupted as leaving:
                return leaving.control
        return control

    def _stopped(self) -> None:
        self._reporter.event(
            "training.stopped",
            f"{self._track.name} was ended early, at step {self.step} of {self.schedule.total_steps}",
            data={"track": self._track.name, "step": self.step},
        )

    def _tell(self, readings: Sequence[StepMetrics]) -> None:
        """Log what is known of steps by now."""
        for reading in readings:
            done = reading.step + 1
            if self._recorder.wants(done):
                self._recorder.metrics(done, reading.values())
            self._latest[f"{self._track.series}/loss"] = reading.loss

    def _after_step(self) -> None:
        """Look at the student and save it where the time has come."""
        epoch, within = divmod(self.step, self.schedule.steps_per_epoch)
        since = time.monotonic() - self._saved_at
        if within:
            if since >= self._saving.every_seconds:
                self.save()
            return
        self._look(epoch)
        keep = self._saving.keep_every_epochs
        if keep is not None and epoch % keep == 0:
            self.save(keep=True)
        elif epoch % self._saving.every_epochs == 0 and since >= self._saving.least_seconds:
            self.save()

    def _look(self, epoch: int) -> None:
        watch = self._watch
        if watch is None or (epoch % watch.every_epochs and self.step != self.schedule.total_steps):
            return
        self._tell(self.stepper.drain_all())
        try:
            value = self.stepper.measure(watch)
        except Interrupted:  # asked for while looking: the loop saves this step first, then leaves
            return
        self._latest[watch.name] = value
        self._reporter.metrics(self.step, {watch.name: value})


def _not_finite(reading: StepMetrics, epoch: int) -> NonFiniteLoss:
    poor = {name: value for name, value in reading.terms.items() if not math.isfinite(value)}
    what = (
        " and ".join(f"the loss term {name!r} became {value}" for name, value in poor.items())
        or f"the loss is finite, but the norm of its gradient became {reading.gradient_norm}"
    )
    return NonFiniteLoss(
        f"at step {reading.step} (epoch {epoch}) {what}; no step was taken with it. Lower training.learning_rate, warm "
        "up for longer, or set training.gradient_clip.",
        extra={"step": reading.step, "terms": {name: str(value) for name, value in poor.items()}},
    )
