"""What was measured of a teacher on a test split, noted for every later job with the same teacher and data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from core.data.pixels import Pixels
from core.evaluate import Accuracy, Latency, ModelMetrics, agreement
from core.methods import Teacher
from core.models.built import BuiltModel
from core.teacher.cache_key import teacher_digest
from core.teacher.frozen import FrozenTeacher
from core.train.context import RunContext, validation_stride
from core.train.result_cache import ResultCache

_KIND = "evaluation"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of a teacher, how long it took to measure them, and whether an earlier job did so."""

    measured: ModelMetrics
    seconds: float
    found: bool

    def details(self, classes: tuple[str, ...] | None) -> dict[str, Any]:
        """What the report says beyond the figures."""
        saved = round(self.seconds, 3) if self.found else 0.0
        return {**self.measured.details(classes), "evaluation": {"hit": self.found, "saved_seconds": saved}}


@dataclass(frozen=True, slots=True)
class EvaluationCache:
    """What is known of teachers on one split of one dataset.

    ``pictures`` names the split with its size, ``judged`` how it is found how often a teacher is right.
    """

    notes: ResultCache
    pictures: str
    judged: str

    @classmethod
    def of_job(cls, context: RunContext, image_size: int, *, headless: bool) -> EvaluationCache:
        """Those on the test split of a job's dataset."""
        return cls(
            context.result_cache,
            pictures=f"{context.stored.fingerprint}-{image_size}-test",
            judged="embeddings" if headless else "logits",
        )

    def look_at(self, teachers: Sequence[Teacher], context: RunContext, image_size: int) -> None:
        """Log the lines that the student's curve is drawn against. Raises ``Interrupted`` on request."""
        pictures = context.validation_subset(image_size)
        for index, teacher in enumerate(teachers):
            assert isinstance(teacher, FrozenTeacher)
            known = self.top1(teacher.built, pictures)
            top1 = context.top1(teacher.logits, pictures) if known is None else known
            context.reporter.metrics(0, {f"teacher/{index}/top1": top1})

    def top1(self, teacher: BuiltModel, looked_at: Pixels) -> float | None:
        """How often a teacher is right on the part of the split that is looked at, where an earlier job found out."""
        known = self._known(teacher)
        accuracy = None if known is None else known.measured.accuracy
        if accuracy is None:
            return None
        return agreement(accuracy.predictions[:: validation_stride(accuracy.num_samples)], looked_at.labels)

    def of(self, teacher: BuiltModel, measure: Callable[[BuiltModel], ModelMetrics]) -> Evaluation:
        """What is known of a teacher; ``measure`` finds it out where nobody did, for this job and all later ones."""
        known = self._known(teacher)
        if known is not None:
            return known
        began = time.monotonic()
        measured = measure(teacher)
        seconds = round(time.monotonic() - began, 6)
        self.notes.keep(_KIND, self._words(teacher), {"figures": _figures(measured), "seconds": seconds})
        return Evaluation(measured, seconds, found=False)

    def _known(self, teacher: BuiltModel) -> Evaluation | None:
        found = self.notes.find(_KIND, self._words(teacher))
        return None if found is None else Evaluation(_measured(found["figures"]), found["seconds"], found=True)

    def _words(self, teacher: BuiltModel) -> dict[str, str]:
        return {"teacher": teacher_digest(teacher), "pictures": self.pictures, "judged": self.judged}


def _figures(measured: ModelMetrics) -> dict[str, Any]:
    accuracy = measured.accuracy
    return {
        "accuracy": None if accuracy is None else asdict(accuracy) | {"predictions": accuracy.predictions.tolist()},
        "parameters": measured.parameters,
        "flops": measured.flops,
        "size_bytes": measured.size_bytes,
        "latency": [latency.to_json() for latency in measured.latency],
        "judging": dict(measured.judging),
    }


def _measured(figures: Mapping[str, Any]) -> ModelMetrics:
    accuracy = figures["accuracy"]
    if accuracy is not None:
        predictions = torch.tensor(accuracy["predictions"], dtype=torch.int64)
        accuracy = Accuracy(**accuracy | {"predictions": predictions, "per_class": tuple(accuracy["per_class"])})
    latency = tuple(Latency(**one) for one in figures["latency"])
    return ModelMetrics(**{**figures, "accuracy": accuracy, "latency": latency})
