"""All metrics of one model: accuracy, parameters, FLOPs, size and latency.

:func:`evaluate_exported` measures the exported file, loaded back from disk, instead of the network in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.evaluate.accuracy import Accuracy, LabeledImages, predict, score
from core.evaluate.embeddings import EvaluationResult
from core.evaluate.flops import count_flops
from core.evaluate.latency import Latency, measure_latency
from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta, count_parameters
from core.models.weights import WEIGHTS, load_folder
from core.system.fault_injection import fault_point

STATE_ENTRY_BYTES = 90  # average size of a tensor's entry in a safetensors header


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """Metrics of one model. ``flops`` are per image, 2 per multiply-add; ``latency`` has one entry per batch size.

    ``accuracy`` is None for a dataset without labels. ``evaluation_details`` go to the report. ``predictions`` (N,) are
    the classes on a dataset without labels. ``logits`` (N, K) are those of a classifier, None if they are unknown.
    """

    accuracy: Accuracy | None
    parameters: int
    flops: int
    size_bytes: int
    latency: tuple[Latency, ...]
    evaluation_details: Mapping[str, Any] = field(default_factory=dict)
    predictions: Tensor | None = None
    logits: Tensor | None = None

    @property
    def predicted_classes(self) -> Tensor | None:
        """Class of each image of the split (N,), with or without labels; None without a classifier and labels."""
        return self.predictions if self.accuracy is None else self.accuracy.predictions

    def summary(self) -> dict[str, Any]:
        """Return the metrics of the job result; ``latency_ms`` is for a batch of one image."""
        return {
            "top1": None if self.accuracy is None else self.accuracy.top1,
            "top5": None if self.accuracy is None else self.accuracy.top5,
            "parameters": self.parameters,
            "flops": self.flops,
            "size_bytes": self.size_bytes,
            "latency_ms": round(self.latency[0].milliseconds, 4),
        }

    def details(self, classes: tuple[str, ...] | None = None) -> dict[str, Any]:
        """Return what the report has in addition to :meth:`summary`."""
        per_class = () if self.accuracy is None else self.accuracy.per_class
        names = classes or tuple(str(index) for index in range(len(per_class)))
        return {
            "num_samples": 0 if self.accuracy is None else self.accuracy.num_samples,
            "per_class": dict(zip(names, per_class, strict=True)),
            **self.evaluation_details,
            "latency": [latency.to_json() for latency in self.latency],
            "flops_convention": "one forward pass of one image; a multiply-add counts as 2",
        }


def evaluate_exported(
    folder: Path,
    pixels: LabeledImages,
    *,
    device: torch.device | str = "cpu",
    poll: Callable[[], None] | None = None,
    evaluator: Callable[[BuiltModel], EvaluationResult] | None = None,
) -> ModelMetrics:
    """Measure ``model.safetensors`` of a folder on a split. ``size_bytes`` is the size of the file."""
    built = load_folder(folder)
    size = (folder / WEIGHTS).stat().st_size
    metrics = measure_model(built, pixels, size_bytes=size, device=device, poll=poll, evaluator=evaluator)
    fault_point("student.measured")
    return metrics


def measure_model(
    built: BuiltModel,
    pixels: LabeledImages,
    *,
    size_bytes: int | None = None,
    device: torch.device | str = "cpu",
    poll: Callable[[], None] | None = None,
    evaluator: Callable[[BuiltModel], EvaluationResult] | None = None,
) -> ModelMetrics:
    """Measure a model in memory on a split. Moves it to ``device`` and leaves it in evaluation mode.

    ``evaluator`` replaces the accuracy of the logits, for a network without a classifier.
    """
    module = built.module.to(device).eval()
    if evaluator is None:
        logits = predict(built, pixels.images, device=device, poll=poll)
        result = EvaluationResult(score(logits, pixels.labels), logits=logits)
    else:
        result = evaluator(built)
    image_1CHW = torch.from_numpy(np.array(pixels.images[:1])).to(device).float() / 255
    latency = measure_latency(module, built.preprocessing(image_1CHW)[0], poll=poll)
    return ModelMetrics(
        accuracy=result.accuracy,
        parameters=count_parameters(module),
        flops=model_flops(built),
        size_bytes=state_bytes(built) if size_bytes is None else size_bytes,
        latency=latency,
        evaluation_details=result.details,
        predictions=result.predictions,
        logits=result.logits,
    )


def model_flops(built: BuiltModel) -> int:
    """Count the FLOPs for one image. Runs on the meta device, so that the count does not depend on kernels."""
    shape = (1, built.preprocessing.channels, built.preprocessing.image_size, built.preprocessing.image_size)
    return count_flops(build_on_meta(built.architecture, built.arguments), torch.empty(shape, device="meta"))


def state_bytes(built: BuiltModel) -> int:
    """Estimate the size of the model's safetensors file in bytes."""
    tensors: list[Tensor] = list(built.module.state_dict().values())
    return sum(t.numel() * t.element_size() for t in tensors) + STATE_ENTRY_BYTES * len(tensors)
