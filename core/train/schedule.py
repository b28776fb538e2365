"""How many steps a training takes, and the learning rate at each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.spec import TrainingBase


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up from zero, then a cosine down to ``min_learning_rate`` at the last step."""

    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    learning_rate: float
    min_learning_rate: float

    @classmethod
    def of(cls, training: TrainingBase, *, steps_per_epoch: int) -> Schedule:
        """The schedule of a training block.

        Warm-up is at most half of the training: with the default of one epoch, a training of one
        epoch would else never reach its learning rate.
        """
        total = training.epochs * steps_per_epoch
        return cls(
            steps_per_epoch=steps_per_epoch,
            total_steps=total,
            warmup_steps=min(round(training.warmup_epochs * steps_per_epoch), total // 2),
            learning_rate=training.learning_rate,
            min_learning_rate=min(training.min_learning_rate, training.learning_rate),
        )

    def rate(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        way = (step - self.warmup_steps) / max(1, self.total_steps - 1 - self.warmup_steps)
        height = (1 + math.cos(math.pi * min(way, 1.0))) / 2
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * height

    def epoch(self, step: int) -> int:
        """Whole epochs that are done after ``step`` steps."""
        return step // self.steps_per_epoch
