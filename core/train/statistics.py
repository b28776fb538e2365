"""State that a method estimates before the first step, and its metrics after the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from core.models.taps import Outputs, run_tapped
from core.reporting import Control, Interrupted
from core.train.context import RunContext
from core.train.trainer import TrainingSetup

_BATCH_SIZE = 64  # images of a forward pass of the student and all teachers, for the metrics


def estimate_statistics(setup: TrainingSetup, *, poll: Callable[[], None] = lambda: None) -> None:
    """Let the method estimate its state from the teachers' outputs for the first batches of the training.

    Every rank reads complete batches, in the parts of ``gradient_accumulation``, so all ranks and attempts find the
    same bits. ``poll`` is called before each batch and may raise. Does nothing after a stop request.
    """
    if setup.method.num_statistics_batches == 0:
        return
    try:
        with torch.no_grad():
            setup.method.prepare_training(_first_outputs(setup, poll))
    except Interrupted as interruption:
        if interruption.control is not Control.STOP:
            raise


def _first_outputs(setup: TrainingSetup, poll: Callable[[], None]) -> Iterator[list[Outputs]]:
    loader = setup.loader.shard(0, 1)
    # At most one epoch: the outputs for its view are then at hand for the first steps.
    for step in range(min(setup.method.num_statistics_batches, loader.steps_per_epoch)):
        poll()
        if setup.teacher_outputs is not None:
            setup.teacher_outputs.load_step(step)
        for part in loader.micro_batches(step, setup.training.gradient_accumulation):
            if setup.teacher_outputs is not None:
                yield setup.teacher_outputs.for_batch(part.batch)
            else:
                yield [teacher(part.batch.images) for teacher in setup.teachers]


def log_method_metrics(setup: TrainingSetup, context: RunContext, *, image_size: int, step: int) -> dict[str, float]:
    """Log and return the means of the method's metrics on images of the test split, by name.

    Empty for a method without metrics. The student is in evaluation mode, on the device; the method gets there.
    ``image_size`` is that of the images, before each network's preprocessing. Raises ``Interrupted`` on request.
    """
    pixels = context.validation_subset(image_size)
    setup.method.eval()
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        for start in range(0, len(pixels), _BATCH_SIZE):
            context.poll()
            # A copy, because torch does not support read-only memory.
            images_BCHW = torch.from_numpy(np.array(pixels.images[start : start + _BATCH_SIZE]))
            images_BCHW = images_BCHW.to(setup.compute.device).float() / 255
            for name, value_B in setup.method.test_metrics(*_outputs(setup, images_BCHW)).items():
                sums[name] = sums.get(name, value_B.new_zeros(())) + value_B.sum()
            if not sums:
                return {}
    metrics = {name: float(total) / len(pixels) for name, total in sums.items()}
    context.reporter.metrics(step, metrics)
    return metrics


def _outputs(setup: TrainingSetup, images_BCHW: Tensor) -> tuple[Outputs, list[Outputs]]:
    student = setup.student
    with setup.compute.forward_context():
        outputs = run_tapped(student.module, student.preprocessing(images_BCHW), setup.method.student_taps)
    return outputs, [teacher(images_BCHW) for teacher in setup.teachers]
