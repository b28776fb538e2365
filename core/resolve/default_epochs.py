"""Default number of epochs: a small training split gets more, because what a network learns follows its steps."""

from __future__ import annotations

import math
from typing import TypeVar

from core.data.views import steps_per_epoch
from core.spec import TrainingBase
from core.spec.training import DEFAULT_EPOCHS, DEFAULT_WARMUP_EPOCHS

MIN_STEPS = 1_000
"""Optimizer steps below which a network with random initial weights learns little."""
MAX_DEFAULT_EPOCHS = 200

Training = TypeVar("Training", bound=TrainingBase)


def default_epochs(num_images: int, batch_size: int) -> int:
    """Return the number of epochs that make 1,000 steps, from 20 to 200."""
    epochs = math.ceil(MIN_STEPS / max(1, steps_per_epoch(num_images, batch_size)))
    return min(max(epochs, DEFAULT_EPOCHS), MAX_DEFAULT_EPOCHS)


def with_epochs(training: Training, num_images: int, *, is_random: bool) -> Training:
    """Fill in ``epochs`` and ``warmup_epochs`` of a training on ``num_images``; given values are never changed.

    ``is_random`` tells that it starts from random weights. Otherwise the default is 20 epochs. The default warm-up is
    1 epoch, and of a default number of epochs one in 20.
    """
    epochs, warmup = training.epochs, training.warmup_epochs
    if epochs is None:
        epochs = default_epochs(num_images, training.batch_size) if is_random else DEFAULT_EPOCHS
        default_warmup = DEFAULT_WARMUP_EPOCHS * epochs / DEFAULT_EPOCHS
    else:
        default_warmup = DEFAULT_WARMUP_EPOCHS
    return training.model_copy(update={"epochs": epochs, "warmup_epochs": default_warmup if warmup is None else warmup})
