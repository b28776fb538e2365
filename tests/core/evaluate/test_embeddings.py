"""Embeddings judged by their neighbours and by a linear probe."""

import numpy as np
import pytest
import torch
from torch import nn

from core.data.pixels import Pixels
from core.evaluate.embeddings import RULE, EmbeddingEvaluator, linear_probe, neighbours_votes
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing


def test_near_neighbours_count_more_than_far_ones_and_length_counts_nothing():
    known = torch.tensor([[10.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 1, 1])

    votes = neighbours_votes(known, labels, torch.tensor([[1.0, 0.05]]), 3)

    assert votes.argmax(dim=1).tolist() == [0]
    assert votes[0, 2] == 0


def test_only_the_nearest_vote():
    known = torch.eye(4)

    votes = neighbours_votes(known, torch.arange(4), torch.tensor([[1.0, 0.5, 0.0, 0.0]]), 4, count=2)

    assert (votes > 0).tolist() == [[True, True, False, False]]


def test_the_probe_is_ridge_regression():
    generator = torch.Generator().manual_seed(0)
    known, asked = torch.randn(50, 3, generator=generator), torch.randn(5, 3, generator=generator)
    labels = (known[:, 0] > 0).long()
    x = ((known - known.mean(0)) / known.std(0, correction=0)).double()
    y = torch.nn.functional.one_hot(labels, 2).double()
    rows = torch.cat((x, (0.01 * 50) ** 0.5 * torch.eye(3, dtype=torch.float64)))
    goals = torch.cat((y - y.mean(0), torch.zeros(3, 2, dtype=torch.float64)))
    expected = (asked - known.mean(0)).double() / known.std(0, correction=0) @ torch.linalg.lstsq(rows, goals)[0]

    assert torch.allclose(linear_probe(known, labels, asked, 2).double(), expected + y.mean(0), atol=1e-4)


class Mean(nn.Module):
    """Embeds a picture as its mean and one, without a classifier."""

    def __init__(self):
        super().__init__()
        self.head = nn.Identity()

    def get_classifier(self):
        return self.head

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))
        return self.head(torch.stack((mean, torch.ones_like(mean)), dim=1))


def judged(num_classes):
    images = np.concatenate((np.full((30, 1, 4, 4), 10, np.uint8), np.full((30, 1, 4, 4), 240, np.uint8)))
    labels = torch.tensor([0] * 30 + [1] * 30)
    train, test = Pixels(images, labels), Pixels(images[25:35], labels[25:35])
    built = BuiltModel(Mean(), "mean", {"num_classes": 0}, plain_preprocessing(image_size=4, channels=1))
    judge = EmbeddingEvaluator(
        train=train, test=test, num_classes=num_classes, device=torch.device("cpu"), poll=lambda: None
    )
    return judge(built)


def test_a_network_without_a_classifier_is_judged_by_its_embeddings():
    found = judged(2)

    assert found.accuracy.top1 == 1.0
    assert found.details == {"top1_metric": RULE, "linear_probe_top1": 1.0}


def test_without_labels_nothing_is_judged():
    assert judged(None).accuracy is None


@pytest.mark.parametrize("count", [1, 3])
def test_a_split_smaller_than_the_neighbourhood_votes_as_a_whole(count):
    votes = neighbours_votes(torch.eye(3)[:count], torch.arange(count), torch.eye(3), 3)

    assert (votes > 0).sum(dim=1).tolist() == [count] * 3
