"""What a training tells its caller: metrics by step, progress a few times a second."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from core.reporting import Progress, Reporter
from core.spec import JobSpec
from core.train.schedule import Schedule

_DENSE_STEPS = 1_000  # so many first steps are logged one by one, and about as many of the rest
_PROGRESS_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class ProgressRange:
    """The part of the whole job's progress that one training is."""

    start: float
    width: float

    def at(self, done: float) -> float:
        """The job's fraction when this much (0…1) of the training is done."""
        return self.start + self.width * min(done, 1.0)


def plan_spans(spec: JobSpec, student: str, whole: ProgressRange) -> dict[str, ProgressRange]:
    """The part of ``whole`` that each track is: by its number of epochs, as all see the same data."""
    epochs = {
        f"teacher-{index}": teacher.training.epochs
        for index, teacher in enumerate(spec.teachers)
        if teacher.training is not None
    }
    epochs[student] = spec.training.epochs
    spans, start = {}, whole.start
    for track, count in epochs.items():
        width = whole.width * count / sum(epochs.values())
        spans[track] = ProgressRange(start, width)
        start += width
    return spans


@dataclass(frozen=True, slots=True)
class Track:
    """Which training of a job this is.

    ``name`` names its checkpoints, ``series`` begins the names of its metrics. ``student_steps`` is None
    for the student's own training; for a teacher's, the steps that the student will take, as a job's
    progress counts those alone.
    """

    name: str
    series: str
    span: ProgressRange
    student_steps: int | None = None


class ProgressLogger:
    """Passes on the steps of one training, and measures its speed."""

    def __init__(self, reporter: Reporter, track: Track, schedule: Schedule, batch_size: int) -> None:
        self._reporter = reporter
        self._track = track
        self._schedule = schedule
        self._batch_size = batch_size
        self._stride = max(1, schedule.total_steps // _DENSE_STEPS)
        self._told_at = 0.0
        self._told_step = 0
        self._rate: float | None = None

    def wants(self, step: int) -> bool:
        """Whether the metrics of this step (counted from 1) are logged."""
        return step <= _DENSE_STEPS or step % self._stride == 0 or step == self._schedule.total_steps

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log values under the training's name."""
        self._reporter.metrics(step, {f"{self._track.series}/{name}": value for name, value in values.items()})

    def begin(self, step: int) -> None:
        """The training starts or goes on with ``step`` steps done."""
        self._told_at, self._told_step = time.monotonic(), step
        self._tell(step)

    def progress(self, step: int, *, force: bool = False) -> None:
        """Say how far the training is, unless that was just done."""
        now = time.monotonic()
        passed = now - self._told_at
        if passed < _PROGRESS_SECONDS and not force:
            return
        if passed > 0 and step > self._told_step:
            rate = (step - self._told_step) / passed
            # Averaged over the last few seconds, however often it is told.
            weight = passed / (passed + 3.0)
            self._rate = rate if self._rate is None else self._rate + weight * (rate - self._rate)
        self._told_at, self._told_step = now, step
        self._tell(step)

    def _tell(self, step: int) -> None:
        total, span, rate = self._schedule.total_steps, self._track.span, self._rate
        fraction = span.at(step / total)
        eta = None if rate is None or span.width == 0 else (1 - fraction) / span.width * total / rate
        students = self._track.student_steps
        self._reporter.progress(
            Progress(
                fraction=fraction,
                step=step if students is None else 0,
                total_steps=total if students is None else students,
                epoch=self._schedule.epoch(step) if students is None else 0,
                images_per_second=None if rate is None else rate * self._batch_size,
                eta_seconds=eta,
                stage_step=step,
                stage_total_steps=total,
            )
        )
