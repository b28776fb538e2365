"""Metrics of a job's student and teachers on the test split, and what the job reports of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.evaluate import ModelMetrics, agreement
from core.evaluate.quality_warnings import quality_warnings
from core.teacher.evaluation_cache import Evaluation, validation_top1
from core.train.context import STUDENT_CURVE, RunContext


@dataclass(frozen=True, slots=True)
class JobEvaluation:
    """Metrics on the test split. ``folder`` holds the student's exported files."""

    folder: Path
    student: ModelMetrics
    teachers: tuple[Evaluation, ...]

    @property
    def agreement(self) -> float | None:
        """Fraction of equal predictions of student and teacher, mean over teachers; None without teachers."""
        student = self.student.predicted_classes
        predicted = [teacher.metrics.predicted_classes for teacher in self.teachers]
        teachers = [classes for classes in predicted if classes is not None]
        if student is None or not teachers:
            return None
        return sum(agreement(student, teacher) for teacher in teachers) / len(teachers)

    def result(self) -> dict[str, Any]:
        """Job result of the API contract, without the model's id."""
        return {
            "student": self.student.summary(),
            "teachers": [teacher.metrics.summary() for teacher in self.teachers],
            "compressed": [],
            "agreement": self.agreement,
        }

    def report(
        self, context: RunContext, *, step: int, headless: bool, loss_ratio: float | None, has_weights: bool
    ) -> None:
        """Log the exported student as the last point of its curve, and warn of networks that guess.

        A student without a classifier has the accuracies of its embeddings instead.

        ``step`` is the last step of the training. See :func:`core.evaluate.quality_warnings.divergence_warning` for
        ``loss_ratio`` and ``has_weights``.
        """
        num_classes = None if headless else context.stored.num_classes
        labels = torch.from_numpy(context.stored.split("test").labels.copy())
        student = self.student.accuracy
        if student is not None and num_classes is not None:
            context.reporter.metrics(step, {STUDENT_CURVE: validation_top1(student, labels)})
        if student is not None and headless:
            probe_top1 = self.student.evaluation_details["linear_probe_top1"]
            context.reporter.metrics(step, {"eval/knn_top1": student.top1, "eval/linear_probe_top1": probe_top1})
        teachers = [teacher.metrics.accuracy for teacher in self.teachers]
        for warning in quality_warnings(
            student, teachers, labels, num_classes, loss_ratio=loss_ratio, has_weights=has_weights
        ):
            context.reporter.warning(warning)
