"""Evaluation of the student during its training, for display only: when, and of which images.

The points depend on the wall clock. That is allowed because nothing depends on them: an evaluation changes neither
weights, nor BatchNorm statistics, nor the random draws of a later step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

MAX_COST = 0.05  # seconds of all evaluations, relative to those of the training
_MAX_GAP = 0.05  # of the training's steps between two evaluations
_FIRST_POINT = 0.01  # of the training's steps, before the first evaluation
_FIRST_COST = MAX_COST / 5  # of the complete training, for the first evaluation, which is made in advance
_FORWARD_COST = 1 / 3  # of a training step with as many images


@dataclass(frozen=True, slots=True)
class ValidationCallback:
    """Evaluation of the student on ``num_images`` images; no decision depends on its value."""

    metric_name: str
    num_images: int
    evaluate: Callable[[Callable[[Tensor], Tensor]], float]  # argument: maps images in 0…1 to logits


class ValidationSchedule:
    """Decide after which steps to evaluate.

    There are about 20 evaluations, one after each 5 % of the steps, and an early one after 1 %. All evaluations
    together take at most 5 % of the time of the training, so there are fewer where they are expensive. None is due
    after the last step: the job evaluates the exported student.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        relative_cost: float,
        step: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start after ``step`` steps. ``relative_cost``: images of an evaluation relative to those of a step."""
        self._total_steps = total_steps
        self._clock = clock
        self._estimated_steps = relative_cost * _FORWARD_COST
        self._started_step = self._last_step = step
        self._started_at: float | None = None
        self._spent = 0.0
        self._cost: float | None = None  # seconds of the latest evaluation

    @classmethod
    def for_callback(
        cls, callback: ValidationCallback, *, total_steps: int, batch_size: int, step: int
    ) -> ValidationSchedule:
        """Return the schedule of a callback for a training that continues after ``step`` steps."""
        return cls(total_steps, relative_cost=callback.num_images / batch_size, step=step)

    def is_due(self, step: int) -> bool:
        """Return whether to evaluate after ``step`` completed steps. Call it after every step."""
        now = self._clock()
        if self._started_at is None:  # the first step includes one-time work, so its time does not count
            self._started_at, self._started_step = now, step
            return False
        if step >= self._total_steps or step <= self._started_step:
            return False
        trained = now - self._started_at - self._spent
        step_seconds = trained / (step - self._started_step)
        cost = step_seconds * self._estimated_steps if self._cost is None else self._cost
        is_early = self._last_step == 0 and step >= _FIRST_POINT * self._total_steps
        if is_early and cost <= _FIRST_COST * step_seconds * self._total_steps:
            return True
        is_affordable = self._spent + cost <= MAX_COST * trained
        return is_affordable and step - self._last_step >= _MAX_GAP * self._total_steps

    def add(self, step: int, seconds: float) -> None:
        """Record an evaluation after ``step`` steps that took ``seconds``."""
        self._last_step, self._cost = step, seconds
        self._spent += seconds
