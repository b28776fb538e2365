"""Section ``evaluation`` of ``report.json``: whether the teacher helped, and where the student is wrong.

All figures are computed from logits that are saved once for each network, except those of corrupted images and of
held-out images, which have their own forward passes.

Shapes: N test images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.evaluate.accuracy import agreement
from core.evaluate.bootstrap import PairedDifference, paired_difference
from core.evaluate.calibration import calibration, fit_temperature
from core.evaluate.corruptions import CLEAN, CORRUPTIONS, SEED, subset_indices
from core.evaluate.disagreement import confidence, confusion_matrix, largest_confusions, most_different
from core.evaluate.measure import ModelMetrics

MAX_CLASSES = 1_000  # of the table of classes; of more, the least accurate
MAX_MATRIX_CLASSES = 50  # of the confusion matrix; ``predictions.npz`` has what is needed for a larger one
NUM_CONFUSIONS = 20
NUM_WORST_CLASSES = 10
NUM_DISAGREEMENTS = 24
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkResult:
    """Measurements of one network on the test split.

    ``held_out`` has logits (M, K) and labels (M,) of images that the network was not trained on, ``corrupted`` its
    accuracies by corruption; None where they were not measured.
    """

    metrics: ModelMetrics
    held_out: tuple[Tensor, Tensor] | None = None
    corrupted: Mapping[str, float] | None = None

    @property
    def top1(self) -> float | None:
        """Top-1 accuracy; None without labels."""
        return None if self.metrics.accuracy is None else self.metrics.accuracy.top1


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """Student, teachers and baseline on the same test images. ``labels`` is int64 (N,), None without labels.

    ``paths`` name the images in the dataset. ``baseline_note`` says why there is no baseline, or what it is.
    """

    student: NetworkResult
    teachers: Sequence[NetworkResult]
    baseline: NetworkResult | None
    labels: Tensor | None
    classes: Sequence[str] | None
    paths: Sequence[str]
    dataset: str
    baseline_note: str
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return the section of the report; figures that do not exist for this job are None."""
        return {
            "split": "test",
            "num_images": len(self.paths),
            "verdict": self.verdict(),
            "retention": self._retention(),
            "gain": None if self.gain is None else self.gain.to_json(),
            "baseline_note": self.baseline_note,
            "agreement": [self.agreement(teacher) for teacher in self.teachers],
            "calibration": self._calibration(),
            "per_class": self._per_class(),
            "worst_classes": self._worst_classes(),
            "confusion": self._confusion(),
            "disagreements": self._disagreements(),
            "robustness": self._robustness(),
        }

    @property
    def gain(self) -> PairedDifference | None:
        """The student's accuracy minus the baseline's; None without a baseline or labels."""
        student, baseline = self.student.metrics.predicted_classes, self._baseline_predictions
        if self.labels is None or student is None or baseline is None:
            return None
        return paired_difference(student == self.labels, baseline == self.labels, seed=self.seed)

    @property
    def reference(self) -> int | None:
        """Index of the most accurate teacher, the first of equals; None without teachers."""
        if not self.teachers:
            return None
        return max(range(len(self.teachers)), key=lambda index: self.teachers[index].top1 or 0.0)

    def verdict(self) -> dict[str, str]:
        """Return whether the teacher helped, as a code and a sentence."""
        gain = self.gain
        if gain is None:
            return {"code": "unknown", "text": f"Whether the teacher helped is unknown: {self.baseline_note}"}
        points, low, high = (f"{100 * abs(value):.1f}" for value in (gain.difference, gain.low, gain.high))
        signed = f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
        if gain.low > 0:
            text = f"The teacher helped: the student is {points} points more accurate than the same network trained "
            return {"code": "helped", "text": f"{text}by labels alone (95 % interval: {low} to {high})."}
        if gain.high < 0:
            text = f"The teacher harmed: the student is {points} points less accurate than the same network trained "
            return {"code": "harmed", "text": f"{text}by labels alone (95 % interval: {high} to {low})."}
        text = f"No difference is shown: student and baseline differ by {100 * gain.difference:+.1f} points, and the "
        return {
            "code": "not_shown",
            "text": f"{text}95 % interval ({signed}) includes 0. More test images or several seeds can tell.",
        }

    @property
    def _baseline_predictions(self) -> Tensor | None:
        return None if self.baseline is None else self.baseline.metrics.predicted_classes

    def _retention(self) -> dict[str, Any] | None:
        """Return the student's accuracy relative to that of the most accurate teacher."""
        if self.reference is None:
            return None
        teacher, student = self.teachers[self.reference].top1, self.student.top1
        return {"teacher": self.reference, "top1": _ratio(student, teacher)}

    def agreement(self, other: NetworkResult) -> float | None:
        """Return the fraction of images for which student and another network predict the same class."""
        student, teacher = self.student.metrics.predicted_classes, other.metrics.predicted_classes
        return None if student is None or teacher is None else agreement(student, teacher)

    # --- calibration --------------------------------------------------------------------------------

    def _calibration(self) -> dict[str, Any] | None:
        if self.labels is None or self.student.metrics.logits is None:
            return None
        return {
            "student": self._network_calibration(self.student),
            "teachers": [self._network_calibration(teacher) for teacher in self.teachers],
            "baseline": None if self.baseline is None else self._network_calibration(self.baseline),
        }

    def _network_calibration(self, network: NetworkResult) -> dict[str, Any] | None:
        logits = network.metrics.logits
        if logits is None or self.labels is None:
            return None
        plain = calibration(logits, self.labels)
        figures: dict[str, Any] = {
            "ece": round(plain.ece, _DIGITS),
            "nll": round(plain.nll, _DIGITS),
            "mean_confidence": round(plain.confidence, _DIGITS),
            "bins": [each.to_json() for each in plain.bins],
            "scaled": None,
        }
        if network.held_out is not None:
            held_out_logits, held_out_labels = network.held_out
            temperature = fit_temperature(held_out_logits, held_out_labels)
            scaled = calibration(logits, self.labels, temperature=temperature)
            figures["scaled"] = {
                "temperature": round(temperature, _DIGITS),
                "ece": round(scaled.ece, _DIGITS),
                "nll": round(scaled.nll, _DIGITS),
                "num_held_out": len(held_out_labels),
                "fitted_on": "held-out images of the training split",
                "bins": [each.to_json() for each in scaled.bins],
            }
        return figures

    # --- classes ------------------------------------------------------------------------------------

    def _per_class(self) -> list[dict[str, Any]] | None:
        """Return the accuracies of each class; of more than ``MAX_CLASSES``, those where the student is worst."""
        rows = self._class_rows()
        if rows is None or len(rows) <= MAX_CLASSES:
            return rows
        return sorted(rows, key=_by_accuracy)[:MAX_CLASSES]

    def _worst_classes(self) -> list[str] | None:
        """Return the names of the classes with the lowest accuracy of the student."""
        rows = self._class_rows()
        if rows is None:
            return None
        return [row["class"] for row in sorted(rows, key=_by_accuracy)[:NUM_WORST_CLASSES] if row["num_images"]]

    def _class_rows(self) -> list[dict[str, Any]] | None:
        accuracy = self.student.metrics.accuracy
        if accuracy is None or self.labels is None:
            return None
        counts = torch.bincount(self.labels, minlength=len(accuracy.per_class)).tolist()
        rows = []
        for index, (count, student) in enumerate(zip(counts, accuracy.per_class, strict=True)):
            teachers = [_class_accuracy(teacher, index) for teacher in self.teachers]
            row = {"class": self._class_name(index), "num_images": count, "student": _rounded(student)}
            row["teachers"] = teachers
            row["baseline"] = None if self.baseline is None else _class_accuracy(self.baseline, index)
            row["retention"] = None if self.reference is None else _ratio(student, teachers[self.reference])
            rows.append(row)
        return rows

    def _class_name(self, index: int) -> str:
        return self.classes[index] if self.classes else str(index)

    def _confusion(self) -> dict[str, Any] | None:
        """Return the student's most frequent confusions, and the complete matrix of few classes."""
        predictions, accuracy = self.student.metrics.predicted_classes, self.student.metrics.accuracy
        if self.labels is None or predictions is None or accuracy is None:
            return None
        num_classes = len(accuracy.per_class)
        pairs = largest_confusions(predictions, self.labels, num_classes, NUM_CONFUSIONS)
        matrix = None
        if num_classes <= MAX_MATRIX_CLASSES:
            matrix = confusion_matrix(predictions, self.labels, num_classes).tolist()
        return {
            "classes": [self._class_name(index) for index in range(num_classes)] if matrix else None,
            "matrix": matrix,
            "largest": [
                {
                    "class": self._class_name(pair.label),
                    "predicted": self._class_name(pair.prediction),
                    "num_images": pair.num_images,
                }
                for pair in pairs
            ],
        }

    # --- images -------------------------------------------------------------------------------------

    def _disagreements(self) -> dict[str, Any] | None:
        """Return the test images on which student and most accurate teacher differ most."""
        if self.reference is None:
            return None
        student, teacher = self.student.metrics.logits, self.teachers[self.reference].metrics.logits
        if student is None or teacher is None or student.shape != teacher.shape:
            return None
        order, divergence = most_different(student, teacher, NUM_DISAGREEMENTS)
        student_confidence, teacher_confidence = confidence(student[order]), confidence(teacher[order])
        student_class, teacher_class = student[order].argmax(dim=1), teacher[order].argmax(dim=1)
        images = [
            {
                "image": index,
                "path": self.paths[index],
                "url": f"/v1/datasets/{self.dataset}/images/test/{index}",
                "label": None if self.labels is None else self._class_name(int(self.labels[index])),
                "student": self._class_name(int(student_class[row])),
                "student_confidence": round(float(student_confidence[row]), 4),
                "teacher": self._class_name(int(teacher_class[row])),
                "teacher_confidence": round(float(teacher_confidence[row]), 4),
                "divergence": round(float(divergence[row]), 4),
            }
            for row, index in enumerate(order.tolist())
        ]
        return {"teacher": self.reference, "measure": "Jensen-Shannon divergence in bits", "images": images}

    def _robustness(self) -> dict[str, Any] | None:
        if self.student.corrupted is None:
            return None

        def row(name: str) -> dict[str, Any]:
            return {
                "corruption": name,
                "student": _corrupted(self.student, name),
                "teachers": [_corrupted(teacher, name) for teacher in self.teachers],
                "baseline": None if self.baseline is None else _corrupted(self.baseline, name),
            }

        return {
            "num_images": len(subset_indices(len(self.paths))),
            "seed": SEED,
            "clean": row(CLEAN),
            "corruptions": [row(name) for name in CORRUPTIONS],
        }


def _class_accuracy(network: NetworkResult, index: int) -> float | None:
    accuracy = network.metrics.accuracy
    return None if accuracy is None or index >= len(accuracy.per_class) else _rounded(accuracy.per_class[index])


def _corrupted(network: NetworkResult, name: str) -> float | None:
    return None if network.corrupted is None else _rounded(network.corrupted[name])


def _by_accuracy(row: Mapping[str, Any]) -> tuple[float, str]:
    """Sort key: classes without images come last."""
    return (2.0 if row["student"] is None else row["student"], row["class"])


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else _rounded(value / reference)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
