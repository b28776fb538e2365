"""Evaluation of models: accuracy, agreement, FLOPs, size and latency."""

from core.evaluate.accuracy import (
    Accuracy,
    LabeledImages,
    agreement,
    evaluate_accuracy,
    predict,
    score,
)
from core.evaluate.embeddings import EmbeddingEvaluator, EvaluationResult
from core.evaluate.flops import count_flops
from core.evaluate.latency import Latency, measure_latency
from core.evaluate.measure import ModelMetrics, evaluate_exported, measure_model, model_flops, state_bytes

__all__ = [
    "Accuracy",
    "EmbeddingEvaluator",
    "EvaluationResult",
    "LabeledImages",
    "Latency",
    "ModelMetrics",
    "agreement",
    "count_flops",
    "evaluate_accuracy",
    "evaluate_exported",
    "measure_latency",
    "measure_model",
    "model_flops",
    "predict",
    "score",
    "state_bytes",
]
