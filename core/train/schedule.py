"""Number of steps of a training, and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.spec import TrainingBase
from core.spec.training import DEFAULT_WARMUP_EPOCHS


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up from zero, then cosine decay to ``min_learning_rate`` at the last step."""

    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    learning_rate: float
    min_learning_rate: float

    @classmethod
    def from_spec(cls, training: TrainingBase, *, steps_per_epoch: int) -> Schedule:
        """Build the schedule of a training block.

        Warm-up is limited to half of the training. Otherwise a training of one epoch, with the default warm-up of one
        epoch, would never reach its learning rate.
        """
        warmup_epochs = DEFAULT_WARMUP_EPOCHS if training.warmup_epochs is None else training.warmup_epochs
        total = training.num_epochs * steps_per_epoch
        return cls(
            steps_per_epoch=steps_per_epoch,
            total_steps=total,
            warmup_steps=min(round(warmup_epochs * steps_per_epoch), total // 2),
            learning_rate=training.learning_rate,
            min_learning_rate=min(training.min_learning_rate, training.learning_rate),
        )

    def rate(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - 1 - self.warmup_steps)
        factor = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * factor

    def epoch(self, step: int) -> int:
        """Number of complete epochs after ``step`` steps."""
        return step // self.steps_per_epoch
