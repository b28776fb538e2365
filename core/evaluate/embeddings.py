"""How good embeddings are, where there is no classifier: k nearest neighbours and a linear probe.

Both learn from the training split and are scored on the test split; nothing is tuned. Neighbours vote with
exp(cosine / 0.07) (Wu et al. 2018, arXiv:1805.01978; k 20 as in DINO). The probe is ridge regression to one-hot
labels on standardised embeddings, in closed form. Shapes: N pictures of the training split, M of the test split, D
width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.evaluate.accuracy import Accuracy, LabelledPictures, predict, score
from core.models.built import BuiltModel
from core.models.taps import FeatureRequest, Outputs, run_tapped

NEIGHBOURS = 20
MOST_LEARNED_FROM = 50_000  # pictures of the training split, evenly spaced
RULE = f"k nearest neighbours on embeddings: k {NEIGHBOURS}, cosine, of the training split"
_TEMPERATURE = 0.07
_RIDGE = 0.01  # times the number of pictures
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """How often a model is right, and what the report says of that beside. None: there are no labels."""

    accuracy: Accuracy | None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EmbeddingEvaluator:
    """Judges a network by its embeddings; ``num_classes`` None: there are no labels to judge by."""

    train: LabelledPictures
    test: LabelledPictures
    num_classes: int | None
    device: torch.device
    poll: Callable[[], None]

    def __call__(self, built: BuiltModel) -> EvaluationResult:
        """The neighbours' decisions, with the probe's accuracy in the details. ``built`` is on the device."""
        if self.num_classes is None:
            return EvaluationResult(None, {"top1_metric": None})
        stride = -(-len(self.train.labels) // MOST_LEARNED_FROM)
        known_ND, labels_N = self._embedded(built, self.train, stride), self.train.labels[::stride]
        asked_MD = self._embedded(built, self.test, 1)
        votes_MK = neighbours_votes(known_ND, labels_N, asked_MD, self.num_classes)
        probe_MK = linear_probe(known_ND, labels_N, asked_MD, self.num_classes)
        probed = score(probe_MK, self.test.labels).top1
        return EvaluationResult(score(votes_MK, self.test.labels), {"top1_metric": RULE, "linear_probe_top1": probed})

    def _embedded(self, built: BuiltModel, pixels: LabelledPictures, stride: int) -> Tensor:
        def embed(images_BCHW: Tensor) -> Tensor:
            if built.num_classes == 0:
                return Outputs.of(built(images_BCHW)).logits
            outputs = run_tapped(built.module, built.preprocessing(images_BCHW), FeatureRequest(embedding=True))
            assert outputs.embedding is not None
            return outputs.embedding

        return predict(embed, pixels.images[::stride], device=self.device, poll=self.poll)


def neighbours_votes(
    known_ND: Tensor, labels_N: Tensor, asked_MD: Tensor, num_classes: int, *, count: int = NEIGHBOURS
) -> Tensor:
    """Votes (M, K) of each picture's nearest ``count``, by cosine."""
    known_ND, asked_MD = F.normalize(known_ND, dim=1), F.normalize(asked_MD, dim=1)
    votes = []
    for start in range(0, len(asked_MD), _AT_ONCE):
        part_mD = asked_MD[start : start + _AT_ONCE]
        nearest = (part_mD @ known_ND.T).topk(min(count, len(known_ND)), dim=1)
        weights = ((nearest.values - 1) / _TEMPERATURE).exp()
        votes.append(torch.zeros(len(part_mD), num_classes).scatter_add_(1, labels_N[nearest.indices], weights))
    return torch.cat(votes)


def linear_probe(known_ND: Tensor, labels_N: Tensor, asked_MD: Tensor, num_classes: int) -> Tensor:
    """Scores (M, K) of ridge regression."""
    known_ND, asked_MD = known_ND.double(), asked_MD.double()
    mean_D, deviation_D = known_ND.mean(dim=0), known_ND.std(dim=0, correction=0) + 1e-6
    x_ND, y_NK = (known_ND - mean_D) / deviation_D, F.one_hot(labels_N, num_classes).double()
    gram_DD = x_ND.T @ x_ND / len(x_ND) + _RIDGE * torch.eye(x_ND.shape[1], dtype=torch.float64)
    bias_K = y_NK.mean(dim=0)
    weights_DK = torch.linalg.solve(gram_DD, x_ND.T @ (y_NK - bias_K) / len(x_ND))
    scores: Tensor = (asked_MD - mean_D) / deviation_D @ weights_DK + bias_K
    return scores.float()
