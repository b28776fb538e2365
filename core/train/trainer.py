"""Training loop for students and teachers, independent of the method."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from core.methods.base import Batch, Method, StepContext, StepInfo, Teacher
from core.models.built import BuiltModel
from core.models.taps import Outputs, run_tapped
from core.reporting import Control, Interrupted, Reporter, SavedCheckpoint
from core.seeds import derive_seed, seed_generators, step_seed
from core.spec import BalanceSpec, TrainingBase, TrainingSpec
from core.train.async_metrics import LAG_STEPS, MetricQueue, StepMetrics, non_finite_loss
from core.train.balance import build_balance
from core.train.checkpoint import TrainState, read_checkpoint, write_checkpoint
from core.train.ema import Ema
from core.train.loader import BatchLoader
from core.train.optimizer import CONSTANT_RATE, build_optimizer, can_skip_steps, clip_gradients, gradient_norm
from core.train.precision import ComputeConfig
from core.train.process_group import SINGLE_PROCESS, ProcessGroup, convert_batch_norm
from core.train.progress import ProgressLogger, Track
from core.train.schedule import Schedule
from core.train.validation import ValidationCallback, ValidationSchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPolicy:
    """When to write checkpoints besides the last step and an interruption. Seconds are wall-clock time."""

    every_epochs: int = 1
    keep_weights_every_epochs: int | None = None
    every_seconds: float = 300.0
    min_seconds: float = 2.0  # between saves; a tiny training would otherwise mostly write checkpoints

    @classmethod
    def from_spec(cls, training: TrainingSpec) -> Self:
        """Build the policy of a student's training block."""
        return cls(
            every_epochs=training.checkpoint_every_epochs,
            keep_weights_every_epochs=training.keep_weights_every_epochs,
        )


class TeacherOutputSource(Protocol):
    """Teacher outputs that are computed view by view, before the steps that use them."""

    def load_step(self, step: int) -> None:
        """Load or compute the outputs that a step needs. Raises ``Interrupted`` on any control request."""

    def for_batch(self, batch: Batch) -> list[Outputs]:
        """Return each teacher's outputs for the batch of the step that was loaded last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """Everything that defines one training. The training modifies ``student`` and ``method`` in place.

    ``teacher_outputs`` is None where the teachers run on every batch.
    """

    training: TrainingBase
    student: BuiltModel
    method: Method
    teachers: Sequence[Teacher]
    loader: BatchLoader
    compute: ComputeConfig
    ema: float | None = None
    teacher_outputs: TeacherOutputSource | None = None
    balance: BalanceSpec = field(default_factory=BalanceSpec)


class TrainStep:
    """State of one training, and the code of one optimizer step.

    ``lag`` is the number of steps by which the host reads metrics late; None selects the device's default. With a lag
    of 0 the host checks the loss before it applies the step. With a larger lag the device skips the first non-finite
    step and all later ones, and the host raises when it reads the metrics. An optimizer that cannot skip a step on the
    device has no lag. Call :meth:`drain_all` before saving or reporting anything.
    """

    def __init__(self, setup: TrainingSetup, *, ranks: ProcessGroup = SINGLE_PROCESS, lag: int | None = None) -> None:
        self.setup = setup
        self.ranks = ranks
        self.schedule = Schedule.from_spec(setup.training, steps_per_epoch=setup.loader.steps_per_epoch)
        self._device = setup.compute.device
        module = convert_batch_norm(setup.student.module.to(self._device), ranks, self._device)
        convert_batch_norm(setup.method.to(self._device), ranks, self._device)
        setup.method.prepare_student(module)
        self.state = TrainState(
            student=module,
            method=setup.method,
            optimizer=build_optimizer(
                [module, setup.method],
                name=setup.training.optimizer,
                learning_rate=setup.training.learning_rate,
                weight_decay=setup.training.weight_decay,
                dot_delta=setup.balance.dot_delta,
            ),
            ema=None if setup.ema is None else Ema(module, setup.ema),
        )
        self._parameters = [p for g in self.state.optimizer.param_groups for p in g["params"]]
        self._terms = ranks.wrap_terms(module, setup.method)
        self._balance = build_balance(setup.balance, self.state.optimizer, [module, setup.method], ranks)
        # Each rank draws its own dropout masks, for its own images.
        self._step_seeds = derive_seed(setup.training.seed, f"steps-{ranks.rank}" if ranks.rank else "steps")
        if not can_skip_steps(self.state.optimizer):
            lag = 0
        self._queue = MetricQueue(LAG_STEPS[self._device.type] if lag is None else lag)
        self._ready: list[StepMetrics] = []
        self._found_inf: Tensor | None = None
        if self._queue.lag > 0:
            self._found_inf = torch.zeros((), device=self._device)
            # The attribute that GradScaler sets: the fused optimizer changes nothing while it is 1.
            self.state.optimizer.found_inf = self._found_inf  # type: ignore[attr-defined]
        self.train_mode()

    def train_mode(self) -> None:
        """Switch student and method to training mode."""
        self.state.student.train()
        self.state.method.train()

    def run(self, step: int) -> dict[str, float]:
        """:meth:`enqueue` a step, wait for it and return its metrics."""
        self.enqueue(step)
        return self.drain_all()[-1].values()

    def enqueue(self, step: int) -> None:
        """Run step ``step`` (counted from 0). Where metrics lag, do not wait for the device.

        Raises:
            NonFiniteLoss: A loss term or the gradient of this step, or of an unread earlier one, is not finite. That
                step did not change the weights.
        """
        setup, info = self.setup, self.step_info(step)
        seed_generators(step_seed(self._step_seeds, step), self._device)
        fraction = setup.loader.batch_fraction(step)
        for parameter in self._parameters:  # zero_grad without its overhead
            parameter.grad = None
        names, means = self._add_gradients(info, fraction)
        others, separate = ({}, []) if self._balance is None else self._balance.combine()
        # A parameter that this step did not use has no gradient.
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = gradient_norm(gradients)
        rate = self.schedule.rate(step)
        measured = self.ranks.reduce_mean(means, fraction)
        self._queue.put(step, names, torch.cat((measured, norm.detach().view(1))), learning_rate=rate, others=others)
        if self._found_inf is not None:
            self._found_inf.logical_or_(~torch.isfinite(measured[-1] + norm))
        self._check(self._queue.pop_due())
        self._apply([*gradients, *separate], norm, rate)
        setup.method.after_step(self.state.student, info)
        if self.state.ema is not None:
            self.state.ema.update()

    def _add_gradients(self, info: StepInfo, fraction: float) -> tuple[tuple[str, ...], Tensor]:
        """Add up the gradients of all micro-batches; return the names of the loss terms, and the means of terms, loss.

        ``fraction`` is that of the batch on this rank. Micro-batches are weighted by their size, so the sum is the
        gradient of the complete batch.
        """
        setup, names = self.setup, tuple[str, ...]()
        means = torch.zeros((), device=self._device)
        cached_outputs = None if setup.teacher_outputs is None else setup.teacher_outputs.for_batch
        context = StepContext(self._run_student, setup.teachers, info, cached_outputs)
        for part in setup.loader.micro_batches(info.step, setup.training.gradient_accumulation):
            with self.ranks.gradient_reduction(self._terms, enabled=part.is_last and self._balance is None):
                terms = self._terms(part.batch, context)
                loss = torch.stack(tuple(terms.values())).sum()
                weight = self.ranks.loss_scale(fraction) * part.fraction
                if self._balance is None:
                    torch.autograd.backward(loss if weight == 1 else loss * weight)
                else:
                    self._balance.backward(terms, weight)
            values = torch.stack((*terms.values(), loss)).detach()
            names, means = tuple(terms), values if part.fraction == 1 else means + values * part.fraction
        return names, means

    def drain_ready(self) -> list[StepMetrics]:
        """Return the metrics read since the last call, in step order, without waiting."""
        unread, self._ready = self._ready, []
        return unread

    def drain_all(self) -> list[StepMetrics]:
        """Wait for the device and return all metrics not yet returned. Raises ``NonFiniteLoss``."""
        self._check(self._queue.drain())
        return self.drain_ready()

    def _check(self, steps: Iterable[StepMetrics]) -> None:
        for metrics in steps:
            if not math.isfinite(metrics.loss + metrics.gradient_norm):
                raise non_finite_loss(metrics, self.schedule.epoch(metrics.step))
            self._ready.append(metrics)

    def _apply(self, gradients: list[Tensor], norm: Tensor, rate: float) -> None:
        limit = self.setup.training.gradient_clip
        if limit is not None:
            clip_gradients(gradients, norm, limit)
        for group in self.state.optimizer.param_groups:
            group["lr"] = group.get(CONSTANT_RATE, rate)
        self.state.optimizer.step()

    def step_info(self, step: int) -> StepInfo:
        """Return the position of a step in the training. A training of 0 epochs has one step, the preflight's."""
        return StepInfo(
            step=step,
            total_steps=max(1, self.schedule.total_steps),
            epoch=step / self.schedule.steps_per_epoch,
            epochs=self.setup.training.num_epochs,
        )

    def _run_student(self, images_BCHW: Tensor) -> Outputs:
        """Run the student in the training's precision; capture the features that the method requests."""
        built = self.setup.student
        with self.setup.compute.forward_context():
            return run_tapped(built.module, built.preprocessing(images_BCHW), self.setup.method.student_taps)

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """Logits of images in 0…1 from the weights that would be exported now. Needs evaluation mode."""
        student = self.setup.student
        inputs = student.preprocessing(images_BCHW.to(self._device))
        with self.setup.compute.forward_context():
            if self.state.ema is None:
                logits: Tensor = student.module(inputs)
            else:
                logits = torch.func.functional_call(student.module, self.state.ema.weights, (inputs,))
        return logits.float()

    def validate(self, callback: ValidationCallback) -> float:
        """Evaluate the student as it would be exported now, then return to training mode."""
        self.state.student.eval()
        try:
            with torch.no_grad():  # not inference_mode: tensors that a model caches there cannot be used in training
                return callback.evaluate(self.logits)
        finally:
            self.train_mode()

    def finalize_weights(self) -> None:
        """Load the exported weights (the moving average, if any) into the student; switch it to evaluation mode."""
        if self.state.ema is not None:
            self.state.student.load_state_dict(self.state.ema.weights)
        self.state.student.eval()


class Trainer:
    """Run a training until its last step, a stop or an interruption; save and resume it."""

    def __init__(
        self,
        setup: TrainingSetup,
        *,
        track: Track,
        reporter: Reporter,
        scratch_dir: Path,
        checkpoint_policy: CheckpointPolicy | None = None,
        validation: ValidationCallback | None = None,
        ranks: ProcessGroup = SINGLE_PROCESS,
        lag: int | None = None,
    ) -> None:
        self.train_step = TrainStep(setup, ranks=ranks, lag=lag)
        self.schedule = self.train_step.schedule
        self.step = 0
        self._track = track
        self._reporter = reporter
        self._scratch_dir = scratch_dir
        self._policy = checkpoint_policy or CheckpointPolicy()
        self._validation = validation
        self._validation_schedule: ValidationSchedule | None = None
        self._logger = ProgressLogger(reporter, track, self.schedule, setup.loader.batch_size)
        self._saved_step = 0
        self._saved_at = time.monotonic()
        self._latest: dict[str, float] = {}

    def resume(self, checkpoint: Path | None) -> None:
        """Load a checkpoint of this track; do nothing for None. Raises ``StorageFailed`` if it cannot be read."""
        if checkpoint is None:
            return
        self.step = self._saved_step = read_checkpoint(checkpoint, self.train_step.state)
        self._reporter.event(
            "training.resumed",
            f"Track {self._track.name} resumed at step {self.step} of {self.schedule.total_steps}.",
            data={"track": self._track.name, "step": self.step},
        )

    def run(self) -> bool:
        """Train from the current step to the last one.

        Returns True after the last step, False after a stop request.

        Raises:
            Interrupted: On request, after a checkpoint is saved.
            NonFiniteLoss: The loss is not finite; that step did not change the weights.
        """
        self._logger.begin(self.step)
        if self._validation is not None:
            self._validation_schedule = ValidationSchedule.for_callback(
                self._validation,
                total_steps=self.schedule.total_steps,
                batch_size=self.train_step.setup.loader.batch_size,
                step=self.step,
            )
        while self.step < self.schedule.total_steps:
            control = self._next_control()
            if control is not Control.GO:
                self._logger.progress(self.step, force=True)
                self.save()
                if control is Control.STOP:
                    self._report_stop()
                    return False
                raise Interrupted(control)
            self.train_step.enqueue(self.step)
            self.step += 1
            self._log(self.train_step.drain_ready())
            self._logger.progress(self.step)
            self._after_step()
        self._logger.progress(self.step, force=True)
        self.save()
        return True

    def save(self, *, keep: bool = False) -> None:
        """Write a checkpoint unless this step has one. Raises ``NonFiniteLoss`` before it writes anything."""
        self._log(self.train_step.drain_all())
        if self.step == self._saved_step and not keep:
            return
        folder = self._scratch_dir / f"{self._track.name}-{self.step:09d}"
        write_checkpoint(folder, self.train_step.state, step=self.step, student=self.train_step.setup.student)
        self._logger.progress(self.step, force=True)
        epoch = self.schedule.epoch(self.step)
        self._reporter.save_checkpoint(
            SavedCheckpoint(folder, self._track.name, self.step, epoch, metrics=dict(self._latest), keep=keep)
        )
        shutil.rmtree(folder, ignore_errors=True)  # the reporter has moved or copied it
        self._saved_step, self._saved_at = self.step, time.monotonic()

    def _next_control(self) -> Control:
        """Return the pending request; if there is none, load the teacher outputs for the next step."""
        control = self._reporter.control()
        setup, fraction = self.train_step.setup, self.train_step.step_info(self.step).fraction
        if control is Control.GO and setup.teacher_outputs is not None and fraction < setup.method.teacher_fraction:
            try:
                setup.teacher_outputs.load_step(self.step)
            except Interrupted as interruption:
                return interruption.control
        return control

    def _report_stop(self) -> None:
        self._reporter.event(
            "training.stopped",
            f"Track {self._track.name} stopped early, at step {self.step} of {self.schedule.total_steps}.",
            data={"track": self._track.name, "step": self.step},
        )

    def _log(self, steps: Sequence[StepMetrics]) -> None:
        """Log the metrics of steps, and remember the loss for the next checkpoint."""
        for metrics in steps:
            done = metrics.step + 1
            if self._logger.should_log(done):
                self._logger.metrics(done, metrics.values())
            self.train_step.state.loss_trend.add(metrics)
            self._latest[f"{self._track.metric_prefix}/loss"] = metrics.loss

    def _after_step(self) -> None:
        """Validate and save when due."""
        self._validate()
        epoch, remainder = divmod(self.step, self.schedule.steps_per_epoch)
        elapsed = time.monotonic() - self._saved_at
        if remainder:
            if elapsed >= self._policy.every_seconds:
                self.save()
            return
        keep = self._policy.keep_weights_every_epochs
        if keep is not None and epoch % keep == 0:
            self.save(keep=True)
        elif epoch % self._policy.every_epochs == 0 and elapsed >= self._policy.min_seconds:
            self.save()

    def _validate(self) -> None:
        validation, schedule = self._validation, self._validation_schedule
        if validation is None or schedule is None or not schedule.is_due(self.step):
            return
        self._log(self.train_step.drain_all())
        start = time.monotonic()
        try:
            value = self.train_step.validate(validation)
        except Interrupted:  # the loop saves this step first, then leaves
            return
        schedule.add(self.step, time.monotonic() - start)
        self._latest[validation.metric_name] = value
        self._reporter.metrics(self.step, {validation.metric_name: value})
