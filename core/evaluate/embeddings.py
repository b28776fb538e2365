"""Evaluation of embeddings of a network without a classifier: k nearest neighbors and a linear probe.

Both are fitted on the training split, without augmentation, and scored on the test split, once. Neighbors vote with
weight exp(cosine / 0.07) (Wu et al. 2018, arXiv:1805.01978; k = 20 as in DINOv2, arXiv:2304.07193, whose weights
differ by a factor). The probe is ridge regression to one-hot labels on standardized embeddings, in closed form; its
strength is chosen on a held-out tenth of the training split, then it is fitted on all of it.

Shapes: N training images, M test images, m test images of a chunk, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.holdout import num_held_out
from core.evaluate.accuracy import Accuracy, LabeledImages, predict, score
from core.models.built import BuiltModel
from core.models.taps import FeatureRequest, Outputs, run_tapped

NUM_NEIGHBORS = 20
MAX_TRAIN_IMAGES = 50_000  # of the training split, evenly spaced
KNN_METRIC = f"k nearest neighbors on embeddings: k {NUM_NEIGHBORS}, cosine, of the training split"
_TEMPERATURE = 0.07
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths of the ridge that are tried, relative to the number of images."""
HELD_OUT = 0.1  # of the training images, for the choice of the ridge
_CHUNK_SIZE = 256


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Accuracy of a model and further details for the report. ``accuracy`` is None for a dataset without labels.

    ``predictions`` (N,) int64 are those of a classifier on images without labels. ``logits`` (N, K) float32 are those
    of a classifier.
    """

    accuracy: Accuracy | None
    details: dict[str, Any] = field(default_factory=dict)
    predictions: Tensor | None = None
    logits: Tensor | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingEvaluator:
    """Evaluates a network by its embeddings. ``num_classes`` is None for a dataset without labels."""

    train: LabeledImages
    test: LabeledImages
    num_classes: int | None
    device: torch.device
    poll: Callable[[], None]

    def __call__(self, built: BuiltModel) -> EvaluationResult:
        """Score the k-NN predictions of a network on the device. The details have the linear probe's accuracy."""
        if self.num_classes is None:
            return EvaluationResult(None, {"top1_metric": None})
        stride = -(-len(self.train.labels) // MAX_TRAIN_IMAGES)
        train_ND, labels_N = self._embed(built, self.train, stride), self.train.labels[::stride]
        test_MD = self._embed(built, self.test, 1)
        votes_MK = knn_votes(train_ND, labels_N, test_MD, self.num_classes)
        ridge, held_out = choose_ridge(train_ND, labels_N, self.num_classes, poll=self.poll)
        scores_MK = linear_probe(train_ND, labels_N, test_MD, self.num_classes, ridge=ridge)
        details = {
            "top1_metric": KNN_METRIC,
            "knn": {"num_neighbors": NUM_NEIGHBORS, "temperature": _TEMPERATURE, "num_train": len(labels_N)},
            "linear_probe_top1": score(scores_MK, self.test.labels).top1,
            "linear_probe": {"ridge": ridge, "num_train": len(labels_N), "num_held_out": held_out},
        }
        return EvaluationResult(score(votes_MK, self.test.labels), details)

    def _embed(self, built: BuiltModel, pixels: LabeledImages, stride: int) -> Tensor:
        def embed(images_BCHW: Tensor) -> Tensor:
            if built.num_classes == 0:
                return Outputs.from_model_output(built(images_BCHW)).logits
            outputs = run_tapped(built.module, built.preprocessing(images_BCHW), FeatureRequest(embedding=True))
            assert outputs.embedding is not None
            return outputs.embedding

        return predict(embed, pixels.images[::stride], device=self.device, poll=self.poll)


def knn_votes(
    train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, num_classes: int, *, num_neighbors: int = NUM_NEIGHBORS
) -> Tensor:
    """Return the summed votes (M, K) of each test image's nearest training images, by cosine similarity."""
    train_ND, test_MD = F.normalize(train_ND, dim=1), F.normalize(test_MD, dim=1)
    votes = []
    for start in range(0, len(test_MD), _CHUNK_SIZE):
        chunk_mD = test_MD[start : start + _CHUNK_SIZE]
        nearest = (chunk_mD @ train_ND.T).topk(min(num_neighbors, len(train_ND)), dim=1)
        weights = ((nearest.values - 1) / _TEMPERATURE).exp()
        votes.append(torch.zeros(len(chunk_mD), num_classes).scatter_add_(1, labels_N[nearest.indices], weights))
    return torch.cat(votes)


def choose_ridge(
    train_ND: Tensor, labels_N: Tensor, num_classes: int, *, poll: Callable[[], None] = lambda: None
) -> tuple[float, int]:
    """Return the ridge that is most accurate on held-out training images, the smallest of equals, and their number.

    The held-out images are the same for every network with as many training images.
    """
    count = num_held_out(len(labels_N), HELD_OUT)
    order = np.argsort(np.random.Philox(key=0).random_raw(len(labels_N)), kind="stable")
    held_out, rest = torch.from_numpy(order[:count]), torch.from_numpy(order[count:])
    accuracies = []
    for ridge in RIDGES:
        poll()
        scores = linear_probe(train_ND[rest], labels_N[rest], train_ND[held_out], num_classes, ridge=ridge)
        accuracies.append(score(scores, labels_N[held_out]).top1)
    return RIDGES[accuracies.index(max(accuracies))], count


def linear_probe(train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, num_classes: int, *, ridge: float) -> Tensor:
    """Fit ridge regression on the training embeddings; return its scores (M, K) of the test embeddings."""
    train_ND, test_MD = train_ND.double(), test_MD.double()
    mean_D, deviation_D = train_ND.mean(dim=0), train_ND.std(dim=0, correction=0) + 1e-6
    x_ND, y_NK = (train_ND - mean_D) / deviation_D, F.one_hot(labels_N, num_classes).double()
    gram_DD = x_ND.T @ x_ND / len(x_ND) + ridge * torch.eye(x_ND.shape[1], dtype=torch.float64)
    bias_K = y_NK.mean(dim=0)
    weights_DK = torch.linalg.solve(gram_DD, x_ND.T @ (y_NK - bias_K) / len(x_ND))
    scores: Tensor = (test_MD - mean_D) / deviation_D @ weights_DK + bias_K
    return scores.float()
