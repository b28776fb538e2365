"""Checks of a job's teachers before the student's first step: warnings of teachers that teach little.

Three accuracies are compared: that on test images with guessing and with a simple classifier of pixels, and that on
augmented training images with one half. No training depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.stored import UNLABELED
from core.evaluate.pixel_baseline import pixel_baseline
from core.evaluate.quality_warnings import augmented_images_warning, below_baseline_warning, teacher_warning
from core.methods import Batch
from core.reporting import Control, Interrupted
from core.teacher.evaluation_cache import EvaluationCache
from core.teacher.frozen import FrozenTeacher
from core.train.context import RunContext
from core.train.trainer import TrainingSetup
from core.train.training_set import TrainingSet

_MAX_AUGMENTED = 1_024
_AUGMENTED_SHARE = 20  # one in 20 training images, where teachers run for the check alone
_BLOCK_SIZE = 64


@dataclass(frozen=True, slots=True)
class TeacherChecks:
    """Checks of the frozen teachers of a training on a labeled dataset, with the images of ``training_set``."""

    setup: TrainingSetup
    context: RunContext
    evaluation_cache: EvaluationCache
    training_set: TrainingSet

    @property
    def image_size(self) -> int:
        """The student's image size."""
        return self.setup.student.preprocessing.image_size

    def run(self) -> None:
        """Log the teachers' accuracies and report warnings. Raises ``Interrupted`` on request."""
        reporter, num_classes = self.context.reporter, self.context.stored.num_classes
        assert num_classes is not None, "the dataset has labels"
        accuracies = self.evaluation_cache.log_accuracy(self.setup.teachers, self.context)
        if not accuracies:
            return
        labels_N = self.context.validation_subset(self.image_size).labels
        num_teachers = len(self.setup.teachers)
        warnings = [
            teacher_warning(index, top1, labels_N, num_classes, num_teachers=num_teachers)
            for index, top1 in enumerate(accuracies)
        ]
        others = [index for index, warning in enumerate(warnings) if warning is None]
        if others and num_classes > 1:
            baseline = self._baseline(num_classes)
            warnings += [
                below_baseline_warning(i, accuracies[i], baseline, len(labels_N), num_teachers=num_teachers)
                for i in others
            ]
        for warning in warnings:
            if warning is not None:
                reporter.warning(warning)
        self._check_augmented(others)

    def _baseline(self, num_classes: int) -> float:
        """Return the accuracy of a classifier of pixels; it is cached, as it depends on the dataset alone."""
        context = self.context
        key_fields = {"dataset": context.stored.fingerprint, "sizes": [self.training_set.decode_size, self.image_size]}
        cached = context.result_cache.get("pixel_baseline", key_fields)
        if cached is not None:
            return float(cached["top1"])
        train, test = context.pixels("train", self.training_set.decode_size), context.validation_subset(self.image_size)
        top1 = pixel_baseline(train, test, num_classes, poll=context.poll)
        context.result_cache.put("pixel_baseline", key_fields, {"top1": top1})
        return top1

    def _check_augmented(self, indices: list[int]) -> None:
        """Log the teachers' accuracy on augmented training images, and warn of one that is wrong on most.

        Mixed images have no single class, and images that a method prepares have no label: neither is checked.
        """
        method, loader = self.setup.method, self.setup.loader
        if not method.reads_teacher_logits or method.num_images is not None or loader.mixing is not None:
            return
        labels_N = self.training_set.known_labels()
        samples_B = self._samples(torch.nonzero(labels_N != UNLABELED).squeeze(1))
        for index in indices:
            try:
                logits_BC = self._logits_of_view(index, samples_B)
            except Interrupted as interruption:
                if interruption.control is not Control.STOP:
                    raise
                return  # the trainer ends the training at its first step
            top1 = float((logits_BC.argmax(dim=1).cpu() == labels_N[samples_B]).double().mean())
            self.context.reporter.metrics(0, {f"teacher/{index}/augmented_top1": top1})
            warning = augmented_images_warning(index, top1, len(samples_B), num_teachers=len(self.setup.teachers))
            if warning is not None:
                self.context.reporter.warning(warning)

    def _samples(self, labeled_N: Tensor) -> Tensor:
        """Return evenly spaced ones of the labeled samples; few where the teachers run for the check alone."""
        num_samples = len(labeled_N)
        limit = _MAX_AUGMENTED if self.setup.teacher_outputs else max(_BLOCK_SIZE, num_samples // _AUGMENTED_SHARE)
        return labeled_N[:: max(1, -(-num_samples // min(limit, _MAX_AUGMENTED)))]

    def _logits_of_view(self, index: int, samples_B: Tensor) -> Tensor:
        """Return a teacher's logits for samples of the first view, from the teacher cache where one is used."""
        blocks, outputs = torch.split(samples_B, _BLOCK_SIZE), self.setup.teacher_outputs
        if outputs is not None:
            outputs.load_step(0)  # the first step reads the same view
            nothing = torch.empty(0)
            return torch.cat([outputs.for_batch(Batch(nothing, nothing, block_b))[index].logits for block_b in blocks])
        teacher = self.setup.teachers[index]
        assert isinstance(teacher, FrozenTeacher)
        found = []
        for block_b in blocks:
            self.context.poll()
            found.append(teacher.logits(self.setup.loader.augmented(0, block_b)))
        return torch.cat(found)
