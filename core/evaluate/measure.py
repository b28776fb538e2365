"""All figures of one model: what is right, how large, how dear, how fast.

``evaluate_exported`` measures the file that is handed out, loaded back from disk, never the network
that was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.evaluate.accuracy import Accuracy, LabelledPictures, evaluate_accuracy
from core.evaluate.embeddings import EvaluationResult
from core.evaluate.flops import count_flops
from core.evaluate.latency import Latency, measure_latency
from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta, count_parameters
from core.models.weights import WEIGHTS, load_folder
from core.system.fault_injection import fault_point

STATE_ENTRY_BYTES = 90  # a tensor's entry in a safetensors header, on average


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """Figures of one model. ``flops`` are of one picture, 2 for a multiply-add; ``latency`` by batch size.

    ``accuracy`` is None where there are no labels; ``judging`` is what the report says of how it was found.
    """

    accuracy: Accuracy | None
    parameters: int
    flops: int
    size_bytes: int
    latency: tuple[Latency, ...]
    judging: Mapping[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """The contract's figures of a model; ``latency_ms`` is that of a single picture."""
        return {
            "top1": None if self.accuracy is None else self.accuracy.top1,
            "top5": None if self.accuracy is None else self.accuracy.top5,
            "parameters": self.parameters,
            "flops": self.flops,
            "size_bytes": self.size_bytes,
            "latency_ms": round(self.latency[0].milliseconds, 4),
        }

    def details(self, classes: tuple[str, ...] | None = None) -> dict[str, Any]:
        """What the report says beyond the figures."""
        per_class = () if self.accuracy is None else self.accuracy.per_class
        names = classes or tuple(str(index) for index in range(len(per_class)))
        return {
            "num_samples": 0 if self.accuracy is None else self.accuracy.num_samples,
            "per_class": dict(zip(names, per_class, strict=True)),
            **self.judging,
            "latency": [latency.to_json() for latency in self.latency],
            "flops_convention": "one forward pass of one picture; a multiply-add counts as 2",
        }


def evaluate_exported(
    folder: Path,
    pixels: LabelledPictures,
    *,
    device: torch.device | str = "cpu",
    poll: Callable[[], None] | None = None,
    judge: Callable[[BuiltModel], EvaluationResult] | None = None,
) -> ModelMetrics:
    """Measure ``model.safetensors`` of a folder on a split; size is that of the file."""
    built = load_folder(folder)
    size = (folder / WEIGHTS).stat().st_size
    measured = measure_model(built, pixels, size_bytes=size, device=device, poll=poll, judge=judge)
    fault_point("student.measured")
    return measured


def measure_model(
    built: BuiltModel,
    pixels: LabelledPictures,
    *,
    size_bytes: int | None = None,
    device: torch.device | str = "cpu",
    poll: Callable[[], None] | None = None,
    judge: Callable[[BuiltModel], EvaluationResult] | None = None,
) -> ModelMetrics:
    """Measure a model in memory on a split. It is moved to ``device`` and left in evaluation mode.

    ``judge`` says how often it is right, where that is not a matter of its logits.
    """
    module = built.module.to(device).eval()
    judged = judge(built) if judge else EvaluationResult(evaluate_accuracy(built, pixels, device=device, poll=poll))
    picture_1CHW = torch.from_numpy(np.array(pixels.images[:1])).to(device).float() / 255
    latency = measure_latency(module, built.preprocessing(picture_1CHW)[0], poll=poll)
    return ModelMetrics(
        accuracy=judged.accuracy,
        parameters=count_parameters(module),
        flops=model_flops(built),
        size_bytes=state_bytes(built) if size_bytes is None else size_bytes,
        latency=latency,
        judging=judged.details,
    )


def model_flops(built: BuiltModel) -> int:
    """Operations for one picture, counted on the meta device so that no figure depends on the kernels in use."""
    shape = (1, built.preprocessing.channels, built.preprocessing.image_size, built.preprocessing.image_size)
    return count_flops(build_on_meta(built.architecture, built.arguments), torch.empty(shape, device="meta"))


def state_bytes(built: BuiltModel) -> int:
    """About how large the model is as a safetensors file."""
    tensors: list[Tensor] = list(built.module.state_dict().values())
    return sum(t.numel() * t.element_size() for t in tensors) + STATE_ENTRY_BYTES * len(tensors)
