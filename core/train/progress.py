"""Progress and metrics of one training, as the reporter receives them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.reporting import BASELINE_TRACK, STUDENT_TRACK, Progress, Reporter, compression_track, teacher_track
from core.spec import DistillationSpec, JobSpec
from core.spec.compression import StepParams
from core.train.schedule import Schedule
from core.train.time_plan import ProgressRange, TimePlan

_DENSE_STEPS = 1_000  # logged one by one at the start; of the rest, about as many are logged
_PROGRESS_SECONDS = 0.1


def plan_ranges(spec: JobSpec, total: ProgressRange) -> dict[str, ProgressRange]:
    """Divide ``total`` among the tracks by their numbers of epochs, as all train on the same data."""
    epochs = {
        teacher_track(index): teacher.training.num_epochs
        for index, teacher in enumerate(spec.teachers)
        if teacher.training is not None
    }
    epochs[STUDENT_TRACK] = spec.training.num_epochs
    if spec.baseline:
        epochs[BASELINE_TRACK] = spec.training.num_epochs
    epochs |= {compression_track(index): planned_epochs(step) for index, step in enumerate(spec.compression)}
    ranges, start = {}, total.start
    for track, num_epochs in epochs.items():
        width = total.width * num_epochs / max(1, sum(epochs.values()))
        ranges[track] = ProgressRange(start, width)
        start += width
    return ranges


def planned_epochs(step: StepParams) -> int:
    """Return the epochs of a compression step. Its work besides the training counts as one epoch."""
    return step.training_epochs + 1


def total_epochs(spec: JobSpec | DistillationSpec) -> int:
    """Return the epochs of all trainings of a job: of student, baseline and teachers, and of distilled models."""
    models = (*spec.teachers, spec.student) if isinstance(spec, JobSpec) else spec.teachers
    trainings = [spec.training, *(teacher.training for teacher in spec.teachers if teacher.training is not None)]
    if isinstance(spec, JobSpec) and spec.baseline:
        trainings.append(spec.training)
    inner = [model.distillation for model in models if model.distillation is not None]
    return sum(training.num_epochs for training in trainings) + sum(map(total_epochs, inner))


@dataclass(frozen=True, slots=True)
class Track:
    """One training of a job: the student's, or that of a teacher, the baseline or a compression step.

    ``name`` names its checkpoints, ``metric_prefix`` starts the names of its metric series. ``student_steps`` is None
    for the student. For others it is the number of steps of the student's training, because a job's progress counts
    only those; ``completed_steps`` and ``completed_epochs`` are those that the student has taken. ``time_plan`` is the
    job's.
    """

    name: str
    metric_prefix: str
    progress_range: ProgressRange
    student_steps: int | None = None
    completed_steps: int = 0
    completed_epochs: int = 0
    time_plan: TimePlan = field(default_factory=TimePlan)


class ProgressLogger:
    """Report the metrics, progress and speed of one training."""

    def __init__(self, reporter: Reporter, track: Track, schedule: Schedule, batch_size: int) -> None:
        self._reporter = reporter
        self._track = track
        self._schedule = schedule
        self._batch_size = batch_size
        self._stride = max(1, schedule.total_steps // _DENSE_STEPS)
        self._reported_at = 0.0
        self._reported_step = 0
        self._started_step = 0
        self._rate: float | None = None

    def should_log(self, step: int) -> bool:
        """Return whether the metrics of this step (counted from 1) are logged."""
        return step <= _DENSE_STEPS or step % self._stride == 0 or step == self._schedule.total_steps

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log values with the track's prefix."""
        self._reporter.metrics(step, {f"{self._track.metric_prefix}/{name}": value for name, value in values.items()})

    def begin(self, step: int) -> None:
        """Start measuring after ``step`` completed steps."""
        self._reported_at, self._reported_step, self._started_step = time.monotonic(), step, step
        self._report(step)

    def progress(self, step: int, *, force: bool = False) -> None:
        """Report progress: after the first step, then at most every 0.1 s unless forced.

        The first step includes one-time initialization, so the speed is that of the steps after it.
        """
        now = time.monotonic()
        elapsed = now - self._reported_at
        is_first = step == self._started_step + 1
        if elapsed < _PROGRESS_SECONDS and not (force or is_first):
            return
        is_measured = step > self._reported_step and (not is_first or step == self._schedule.total_steps)
        if elapsed > 0 and is_measured:
            rate = (step - self._reported_step) / elapsed
            # Exponential average over about 3 s, independent of the interval between reports.
            weight = elapsed / (elapsed + 3.0)
            self._rate = rate if self._rate is None else self._rate + weight * (rate - self._rate)
        self._reported_at, self._reported_step = now, step
        self._report(step)

    def _report(self, step: int) -> None:
        total, rate = self._schedule.total_steps, self._rate
        student_steps = self._track.student_steps
        self._reporter.progress(
            Progress(
                fraction=self._track.progress_range.fraction(step / total if total else 1.0),
                step=step if student_steps is None else self._track.completed_steps,
                total_steps=total if student_steps is None else student_steps,
                epoch=self._schedule.epoch(step) if student_steps is None else self._track.completed_epochs,
                images_per_second=None if rate is None else rate * self._batch_size,
                eta_seconds=self._remaining_seconds(step),
                stage_step=step,
                stage_total_steps=total,
            )
        )

    def _remaining_seconds(self, step: int) -> float | None:
        """Return the expected seconds of the rest of this training and of the parts of the job after it.

        Until the speed is measured, the expected seconds of this training replace it. None if both are unknown.
        """
        total, plan, part = self._schedule.total_steps, self._track.time_plan, self._track.progress_range
        seconds = plan.expected_seconds(part) if self._rate is None else total / self._rate
        if seconds is None:
            return None
        remaining = seconds * (1 - step / total) if total else 0.0
        seconds_per_progress = seconds / part.width if part.width else 0.0
        return remaining + plan.seconds_after(part, seconds_per_progress=seconds_per_progress)
