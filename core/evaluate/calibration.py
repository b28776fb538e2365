"""Calibration of class probabilities: expected calibration error, negative log-likelihood and temperature scaling.

Shapes: N images, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_BINS = 15  # of equal width, as in Guo et al. 2017
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
_NUM_HALVINGS = 50  # of the interval of log temperatures: to 1e-14


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Images whose highest probability is in (``lower``, ``upper``]: their number, and means of both axes.

    ``confidence`` and ``accuracy`` are None for a bin without images.
    """

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the report."""
        return {
            "lower": round(self.lower, 4),
            "upper": round(self.upper, 4),
            "count": self.count,
            "confidence": None if self.confidence is None else round(self.confidence, 6),
            "accuracy": None if self.accuracy is None else round(self.accuracy, 6),
        }


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of one network on one split. ``ece`` is a fraction, ``nll`` is in nats per image.

    ``confidence`` is the mean of the highest probabilities.
    """

    ece: float
    nll: float
    confidence: float
    bins: tuple[ReliabilityBin, ...]


def calibration(logits_NK: Tensor, labels_N: Tensor, *, temperature: float = 1.0) -> Calibration:
    """Return the calibration of softmax(logits / temperature) with respect to labels (int64).

    ECE is the mean over images of |accuracy - confidence| of their bin (Naeini et al. 2015; Guo et al. 2017,
    arXiv:1706.04599, equation 3).
    """
    log_probabilities_NK = F.log_softmax(logits_NK.double() / temperature, dim=1)
    confidence_N, predictions_N = log_probabilities_NK.exp().max(dim=1)
    is_correct_N = (predictions_N == labels_N).double()
    bin_N = (confidence_N * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
    counts = torch.bincount(bin_N, minlength=NUM_BINS)
    confidences = torch.bincount(bin_N, confidence_N, NUM_BINS)
    correct = torch.bincount(bin_N, is_correct_N, NUM_BINS)
    return Calibration(
        ece=float((correct - confidences).abs().sum() / len(labels_N)),
        nll=float(F.nll_loss(log_probabilities_NK, labels_N)),
        confidence=float(confidence_N.mean()),
        bins=tuple(
            ReliabilityBin(
                lower=index / NUM_BINS,
                upper=(index + 1) / NUM_BINS,
                count=int(counts[index]),
                confidence=float(confidences[index] / counts[index]) if counts[index] else None,
                accuracy=float(correct[index] / counts[index]) if counts[index] else None,
            )
            for index in range(NUM_BINS)
        ),
    )


def fit_temperature(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Return the temperature (0.05…20) that minimizes the NLL of softmax(logits / temperature).

    Temperature scaling, Guo et al. 2017 (arXiv:1706.04599), section 4.2. The images must not be those that the network
    was trained on: it is too confident on them, in a way that no other image shows. The NLL is convex in the inverse
    temperature, so the sign of its derivative, the mean of E[logits] - logit of the label, decides each halving.
    """
    logits_NK = logits_NK.double()
    target_N = logits_NK.gather(1, labels_N[:, None])[:, 0]
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        probabilities_NK = (logits_NK / math.exp(middle)).softmax(dim=1)
        slope = float(((probabilities_NK * logits_NK).sum(dim=1) - target_N).mean())
        # A negative slope: a higher inverse temperature, a lower temperature, lowers the NLL.
        low, high = (low, middle) if slope < 0 else (middle, high)
    return math.exp((low + high) / 2)
