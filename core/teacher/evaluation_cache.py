"""Evaluation cache: a teacher's metrics on a test split, shared by all jobs with the same teacher and dataset."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.pixels import Pixels
from core.evaluate import Accuracy, Latency, ModelMetrics, agreement
from core.evaluate.corruptions import MAX_IMAGES
from core.methods import Teacher
from core.models.built import BuiltModel
from core.teacher.cache_key import teacher_digest
from core.teacher.frozen import FrozenTeacher
from core.train.context import RunContext, validation_stride
from core.train.result_cache import ResultCache

_KIND, _CORRUPTED_KIND = "evaluation", "corrupted images"
_OMITTED = "omitted"
_MAX_LOGIT_BYTES = 8 * 1024**2  # as float32; a teacher with more logits on the test split runs in every job


def validation_top1(accuracy: Accuracy, labels_N: Tensor) -> float:
    """Return the accuracy on the validation subset, from the predictions and labels of the complete test split."""
    stride = validation_stride(len(labels_N))
    return agreement(accuracy.predictions[::stride], labels_N[::stride])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of a teacher, the seconds that measuring took, and whether they came from the cache.

    ``omits_logits``: the teacher has logits, which are too large for the cache.
    """

    metrics: ModelMetrics
    seconds: float
    hit: bool
    omits_logits: bool = False

    def details(self, classes: tuple[str, ...] | None) -> dict[str, Any]:
        """Return what the report has in addition to the job result."""
        saved = round(self.seconds, 3) if self.hit else 0.0
        return {**self.metrics.details(classes), "evaluation": {"hit": self.hit, "saved_seconds": saved}}


@dataclass(frozen=True, slots=True)
class EvaluationCache:
    """Cached metrics of teachers on the test split of one dataset, decoded at each teacher's own image size.

    ``dataset`` is the dataset's fingerprint. ``criterion`` is ``logits, saved``, or ``embeddings, chosen ridge`` where
    accuracy is that of :class:`core.evaluate.EmbeddingEvaluator`.
    """

    results: ResultCache
    dataset: str
    criterion: str

    @classmethod
    def for_job(cls, context: RunContext, *, headless: bool) -> EvaluationCache:
        """Return the cache for the test split of a job's dataset."""
        return cls(
            context.result_cache,
            dataset=context.stored.fingerprint,
            criterion="embeddings, chosen ridge" if headless else "logits, saved",
        )

    def log_accuracy(self, teachers: Sequence[Teacher], context: RunContext) -> list[float]:
        """Log each teacher's accuracy on the validation subset, a reference for the student's curve; return them.

        Raises ``Interrupted`` on request.
        """
        accuracies = []
        for index, teacher in enumerate(teachers):
            assert isinstance(teacher, FrozenTeacher)
            subset = context.validation_subset(teacher.built.preprocessing.image_size)
            cached = self.top1(teacher.built, subset)
            accuracies.append(context.top1(teacher.logits, subset) if cached is None else cached)
            context.reporter.metrics(0, {f"teacher/{index}/top1": accuracies[-1]})
        return accuracies

    def top1(self, teacher: BuiltModel, subset: Pixels) -> float | None:
        """Return a teacher's accuracy on the validation subset from its cached predictions; None on a miss."""
        cached = self._get(teacher)
        accuracy = None if cached is None else cached.metrics.accuracy
        if accuracy is None:
            return None
        stride = validation_stride(accuracy.num_samples)
        return agreement(accuracy.predictions[::stride], subset.labels)

    def get_or_measure(self, teacher: BuiltModel, measure: Callable[[BuiltModel], ModelMetrics]) -> Evaluation:
        """Return the cached metrics of a teacher; on a miss, measure and cache them.

        The cache has no logits of a large split, so the teacher is then measured again.
        """
        cached = self._get(teacher)
        if cached is not None and not cached.omits_logits:
            return cached
        began = time.monotonic()
        metrics = measure(teacher)
        seconds = round(time.monotonic() - began, 6)
        self.results.put(_KIND, self._key_fields(teacher), {"metrics": _to_json(metrics), "seconds": seconds})
        return Evaluation(metrics, seconds, hit=False)

    def _get(self, teacher: BuiltModel) -> Evaluation | None:
        cached = self.results.get(_KIND, self._key_fields(teacher))
        if cached is None:
            return None
        omits_logits = cached["metrics"]["logits"] == _OMITTED
        return Evaluation(_from_json(cached["metrics"]), cached["seconds"], hit=True, omits_logits=omits_logits)

    def get_or_measure_corrupted(
        self, teacher: BuiltModel, image_size: int, measure: Callable[[BuiltModel], Mapping[str, float]]
    ) -> dict[str, float]:
        """Return a teacher's accuracy by corruption, on images of ``image_size`` pixels; on a miss, measure it."""
        key_fields = {**self._key_fields(teacher), "image_size": str(image_size), "num_images": str(MAX_IMAGES)}
        cached = self.results.get(_CORRUPTED_KIND, key_fields)
        if cached is None:
            cached = dict(measure(teacher))
            self.results.put(_CORRUPTED_KIND, key_fields, cached)
        return cached

    def _key_fields(self, teacher: BuiltModel) -> dict[str, str]:
        split_id = f"{self.dataset}-{teacher.preprocessing.image_size}-test"
        return {"teacher": teacher_digest(teacher), "split_id": split_id, "criterion": self.criterion}


def _to_json(metrics: ModelMetrics) -> dict[str, Any]:
    accuracy = metrics.accuracy
    return {
        "accuracy": None if accuracy is None else asdict(accuracy) | {"predictions": accuracy.predictions.tolist()},
        "parameters": metrics.parameters,
        "flops": metrics.flops,
        "size_bytes": metrics.size_bytes,
        "latency": [latency.to_json() for latency in metrics.latency],
        "evaluation_details": dict(metrics.evaluation_details),
        "predictions": None if metrics.predictions is None else metrics.predictions.tolist(),
        "logits": _logits_to_json(metrics.logits),
    }


def _logits_to_json(logits_NK: Tensor | None) -> dict[str, Any] | str | None:
    """Return logits as base64 of little-endian float32 values, or ``_OMITTED`` where they are too large."""
    if logits_NK is None:
        return None
    content = logits_NK.numpy().astype("<f4", copy=False).tobytes()
    if len(content) > _MAX_LOGIT_BYTES:
        return _OMITTED
    return {"shape": list(logits_NK.shape), "float32": base64.b64encode(content).decode()}


def _logits_from_json(document: Mapping[str, Any] | str | None) -> Tensor | None:
    if document is None or isinstance(document, str):
        return None
    values = np.frombuffer(base64.b64decode(document["float32"]), dtype="<f4")
    return torch.from_numpy(values.reshape(document["shape"]).astype(np.float32))


def _from_json(fields: Mapping[str, Any]) -> ModelMetrics:
    accuracy = fields["accuracy"]
    if accuracy is not None:
        predictions = torch.tensor(accuracy["predictions"], dtype=torch.int64)
        accuracy = Accuracy(**accuracy | {"predictions": predictions, "per_class": tuple(accuracy["per_class"])})
    latency = tuple(Latency(**batch) for batch in fields["latency"])
    classes = fields.get("predictions")
    predicted = None if classes is None else torch.tensor(classes, dtype=torch.int64)
    logits = _logits_from_json(fields["logits"])
    values = {**fields, "accuracy": accuracy, "latency": latency, "predictions": predicted, "logits": logits}
    return ModelMetrics(**values)
