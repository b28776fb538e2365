"""Metrics of a job's student, teachers and baseline on the test split, and what the job reports of them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.evaluate import ModelMetrics
from core.evaluate.disagreement import confidence
from core.evaluate.evaluation_report import EvaluationReport
from core.evaluate.quality_warnings import baseline_warning, quality_warnings
from core.export import ExportInputs, TestSplit
from core.export.digests import digests
from core.export.report import machine, versions
from core.models.weights import WEIGHTS
from core.spec import JobSpec
from core.system.disk import write_atomic
from core.teacher.evaluation_cache import Evaluation, validation_top1
from core.teacher.output_cache import CacheStats
from core.train.baseline import Baseline
from core.train.context import BASELINE_CURVE, STUDENT_CURVE, RunContext
from core.train.export_preflight import NUM_PARITY_IMAGES

PREDICTIONS = "predictions.npz"
_MAX_LOGIT_BYTES = 64 * 1024**2  # of all networks; above it, the file has classes and confidences instead


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvaluation:
    """Metrics on the test split. ``folder`` holds the student's exported files.

    ``teacher_digests`` and ``baseline_digest`` are SHA-256 digests of weights and preprocessing. ``compressed`` has the
    entry of the job result for each compression step.
    """

    folder: Path
    teachers: tuple[Evaluation, ...]
    baseline: Baseline
    report: EvaluationReport
    teacher_digests: tuple[str, ...]
    baseline_digest: str | None
    compressed: tuple[Mapping[str, Any], ...] = ()

    @property
    def student(self) -> ModelMetrics:
        """Metrics of the exported student."""
        return self.report.student.metrics

    @property
    def agreement(self) -> float | None:
        """Fraction of equal predictions of student and teacher, mean over teachers; None without teachers."""
        values = [value for value in map(self.report.agreement, self.report.teachers) if value is not None]
        return sum(values) / len(values) if values else None

    def result(self) -> dict[str, Any]:
        """Job result of the API contract, without the model's id."""
        gain = self.report.gain
        baseline = None
        if self.report.baseline is not None:
            baseline = self.report.baseline.metrics.summary() | {
                "gain": None if gain is None else gain.difference,
                "gain_interval": None if gain is None else [gain.low, gain.high],
            }
        return {
            "student": self.student.summary(),
            "teachers": [teacher.metrics.summary() for teacher in self.teachers],
            "compressed": [dict(entry) for entry in self.compressed],
            "agreement": self.agreement,
            "baseline": baseline,
        }

    def _log_baseline(self, context: RunContext, labels: torch.Tensor, *, step: int) -> None:
        """Log the measured baseline at its own last step, or at ``step`` if it was not trained in this attempt."""
        network = self.report.baseline
        if network is not None and network.metrics.accuracy is not None:
            top1 = validation_top1(network.metrics.accuracy, labels)
            context.reporter.metrics(self.baseline.steps or step, {BASELINE_CURVE: top1})

    def export_inputs(self, context: RunContext, *, image_size: int, headless: bool) -> ExportInputs:
        """Return what the exported files are compared with: real images, and the student's predictions."""
        pixels = context.pixels("test", image_size)
        test = TestSplit.select(
            pixels.images,
            labels=pixels.labels if context.is_labeled and not headless else None,
            predictions=None if headless else self.student.predicted_classes,
            flops=self.student.flops,
        )
        samples = context.sample_images(image_size, NUM_PARITY_IMAGES)
        return ExportInputs(samples=samples, test=test, latency=self.student.latency)

    def log(
        self, context: RunContext, *, step: int, headless: bool, loss_ratio: float | None, has_weights: bool
    ) -> None:
        """Log the exported student and the baseline as last points of their curves, and warn of networks that guess.

        A student without a classifier has the accuracies of its embeddings instead.

        ``step`` is the last step of the training. See :func:`core.evaluate.quality_warnings.divergence_warning` for
        ``loss_ratio`` and ``has_weights``.
        """
        num_classes = None if headless else context.stored.num_classes
        labels = torch.from_numpy(context.stored.split("test").labels.copy())
        student = self.student.accuracy
        if student is not None and num_classes is not None:
            context.reporter.metrics(step, {STUDENT_CURVE: validation_top1(student, labels)})
            self._log_baseline(context, labels, step=step)
        if student is not None and headless:
            probe_top1 = self.student.evaluation_details["linear_probe_top1"]
            context.reporter.metrics(step, {"eval/knn_top1": student.top1, "eval/linear_probe_top1": probe_top1})
        teachers = [teacher.metrics.accuracy for teacher in self.teachers]
        for warning in quality_warnings(
            student, teachers, labels, num_classes, loss_ratio=loss_ratio, has_weights=has_weights
        ):
            context.reporter.warning(warning)
        gain = self.report.gain
        if gain is not None and gain.high < 0:
            context.reporter.warning(baseline_warning(gain.difference, gain.low, gain.high))

    def sections(
        self,
        spec: JobSpec,
        context: RunContext,
        stages: Mapping[str, float],
        cache_stats: CacheStats,
        further_datasets: Mapping[str, str],
    ) -> dict[str, Any]:
        """Return the sections ``evaluation``, ``cost`` and ``digests`` of the report.

        ``stages``: seconds by stage. ``further_datasets``: fingerprints by pointer into the spec.
        """
        evaluations = sum(teacher.seconds for teacher in self.teachers if teacher.hit)
        return {
            "evaluation": self.report.to_json(),
            "cost": {
                "stages": dict(stages),
                "teacher_seconds": round(cache_stats.seconds, 3),
                "teacher_seconds_saved": round(cache_stats.saved_seconds + evaluations, 3),
                "baseline": self.baseline.to_json(),
            },
            "digests": digests(
                spec=spec.model_dump(mode="json"),
                dataset=context.stored.fingerprint,
                further_datasets=further_datasets,
                teachers=self.teacher_digests,
                baseline=self.baseline_digest,
                student=self.folder / WEIGHTS,
                environment={"versions": versions(), "machine": machine()},
            ),
        }

    def write_predictions(self) -> dict[str, Path]:
        """Write ``predictions.npz``, the outputs for each test image; return it by its name, nothing without logits.

        Arrays: ``paths``, ``labels``, and float32 logits (N, K) of ``student``, ``teacher_K`` and ``baseline``; where
        they are large, ``…_class`` and ``…_confidence`` (N,) instead.
        """
        networks = {"student": self.student}
        networks |= {f"teacher_{index}": teacher.metrics for index, teacher in enumerate(self.teachers)}
        if self.report.baseline is not None:
            networks["baseline"] = self.report.baseline.metrics
        logits = {name: metrics.logits for name, metrics in networks.items() if metrics.logits is not None}
        if self.student.logits is None:
            return {}
        arrays: dict[str, Any] = {"paths": np.array(self.report.paths)}
        if self.report.labels is not None:
            arrays["labels"] = self.report.labels.numpy()
        is_large = sum(values.nbytes for values in logits.values()) > _MAX_LOGIT_BYTES
        for name, values in logits.items():
            if is_large:
                arrays[f"{name}_class"] = values.argmax(dim=1).numpy()
                arrays[f"{name}_confidence"] = confidence(values).numpy()
            else:
                arrays[f"{name}_logits"] = values.numpy()
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        path = self.folder / PREDICTIONS
        write_atomic(path, content.getvalue())
        return {PREDICTIONS: path}
