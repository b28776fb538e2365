"""Metrics of the outputs of compression steps on the test split, measured on the very files that are handed out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.compress.onnx_runtime import OnnxNetwork
from core.compress.outcome import StepOutcome
from core.evaluate import agreement, evaluate_exported, predict, score
from core.evaluate.latency import Latency, measure_latency
from core.models.preprocessing import Preprocessing
from core.train.context import RunContext


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """Outcome of a step, its entry in ``result.compressed``, and what the report has in addition.

    ``predictions`` (N,) are the classes that its output predicts on the test split, ``latency`` is that of the output;
    a failed step has neither.
    """

    outcome: StepOutcome
    summary: Mapping[str, Any]
    details: Mapping[str, Any]
    predictions: Tensor | None = None
    latency: tuple[Latency, ...] = ()


def measure_steps(
    outcomes: Sequence[StepOutcome], context: RunContext, preprocessing: Preprocessing, predictions_N: Tensor | None
) -> tuple[MeasuredStep, ...]:
    """Measure the output of each step, rejected ones included, on the test split.

    ``predictions_N`` are the classes that the uncompressed student predicts there; None if unknown.
    """
    return tuple(_measure(outcome, context, preprocessing, predictions_N) for outcome in outcomes)


def _measure(
    outcome: StepOutcome, context: RunContext, preprocessing: Preprocessing, predictions_N: Tensor | None
) -> MeasuredStep:
    context.poll()
    if outcome.is_file is None:
        return MeasuredStep(outcome, outcome.summary({}), dict(outcome.details))
    own_N: Tensor | None
    if outcome.is_file:
        metrics, latency, own_N = _measure_file(outcome, context, preprocessing)
    else:
        inputs = context.evaluation_inputs(preprocessing.image_size, headless=False)
        measured = evaluate_exported(outcome.folder, **inputs)
        metrics, latency, own_N = measured.summary(), measured.latency, measured.predicted_classes
    if predictions_N is not None and own_N is not None:
        metrics["agreement"] = agreement(predictions_N, own_N)
    details = {"latency": [each.to_json() for each in latency], **outcome.details}
    return MeasuredStep(outcome, outcome.summary(metrics), details, own_N, latency)


def _measure_file(
    outcome: StepOutcome, context: RunContext, preprocessing: Preprocessing
) -> tuple[dict[str, Any], tuple[Latency, ...], Tensor]:
    """Measure an ONNX file under ONNX Runtime on the CPU."""
    network = OnnxNetwork.open(outcome.path, preprocessing)
    pixels = context.pixels("test", preprocessing.image_size)
    logits_NK = predict(network, pixels.images, poll=context.poll)
    accuracy = score(logits_NK, pixels.labels) if context.is_labeled else None
    example_1CHW = preprocessing(torch.from_numpy(np.array(pixels.images[:1])).float() / 255)
    latency = measure_latency(network.run, example_1CHW[0], poll=context.poll)
    metrics = {
        "top1": None if accuracy is None else accuracy.top1,
        "top5": None if accuracy is None else accuracy.top5,
        "size_bytes": outcome.path.stat().st_size,
        "latency_ms": round(latency[0].milliseconds, 4),
    }
    return metrics, latency, logits_NK.argmax(dim=1)
