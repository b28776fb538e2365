"""Evaluation of embeddings by k nearest neighbors and by a linear probe."""

import numpy as np
import pytest
import torch
from torch import nn

from core.data.pixels import Pixels
from core.evaluate.embeddings import KNN_METRIC, EmbeddingEvaluator, choose_ridge, knn_votes, linear_probe
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing


def test_near_neighbors_weigh_more_and_the_norm_does_not_matter():
    train = torch.tensor([[10.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 1, 1])

    votes = knn_votes(train, labels, torch.tensor([[1.0, 0.05]]), 3)

    assert votes.argmax(dim=1).tolist() == [0]
    assert votes[0, 2] == 0


def test_only_the_nearest_neighbors_vote():
    train = torch.eye(4)

    votes = knn_votes(train, torch.arange(4), torch.tensor([[1.0, 0.5, 0.0, 0.0]]), 4, num_neighbors=2)

    assert (votes > 0).tolist() == [[True, True, False, False]]


def test_the_probe_is_ridge_regression():
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(50, 3, generator=generator), torch.randn(5, 3, generator=generator)
    labels = (train[:, 0] > 0).long()
    x = ((train - train.mean(0)) / train.std(0, correction=0)).double()
    y = torch.nn.functional.one_hot(labels, 2).double()
    rows = torch.cat((x, (0.01 * 50) ** 0.5 * torch.eye(3, dtype=torch.float64)))
    targets = torch.cat((y - y.mean(0), torch.zeros(3, 2, dtype=torch.float64)))
    expected = (test - train.mean(0)).double() / train.std(0, correction=0) @ torch.linalg.lstsq(rows, targets)[0]

    assert torch.allclose(linear_probe(train, labels, test, 2, ridge=0.01).double(), expected + y.mean(0), atol=1e-4)


def test_neighbors_vote_as_in_dinov2s_official_code():
    torch.manual_seed(0)
    train, labels, test = torch.randn(20, 8), torch.randint(5, (20,)), torch.randn(6, 8)
    # Weights of the official code are a softmax over the 20 nearest images, of which the first k vote.
    expected = {
        3: [0.0, 0.01057422837829963, 0.0, 0.9487092018355295, 0.034961718868406086],
        7: [0.001766943229278158, 0.01057422837829963, 0.0034529530108872255, 0.9492441565131292, 0.034961718868406086],
    }

    for num_neighbors, votes in expected.items():
        found = knn_votes(train, labels, test, 5, num_neighbors=num_neighbors)

        assert found.argmax(dim=1).tolist() == [3, 0, 2, 0, 0, 0]
        assert (found[0] / found[0, 3] * votes[3]).tolist() == pytest.approx(votes, rel=1e-5)


def test_the_ridge_is_chosen_on_held_out_training_images():
    """Few images of many noisy channels: a weak ridge fits the noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(320) % 2
    train = torch.randn(320, 290, generator=generator)  # as many channels as images that are not held out
    train[:, :4] += labels[:, None]

    ridge, count = choose_ridge(train, labels, 2)

    assert count == 32
    assert ridge >= 0.1
    assert choose_ridge(train, labels, 2) == (ridge, count)


class MeanEmbedding(nn.Module):
    """Embeds an image as its mean and one, without a classifier."""

    def __init__(self):
        super().__init__()
        self.head = nn.Identity()

    def get_classifier(self):
        return self.head

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))
        return self.head(torch.stack((mean, torch.ones_like(mean)), dim=1))


def evaluate(num_classes):
    images = np.concatenate((np.full((30, 1, 4, 4), 10, np.uint8), np.full((30, 1, 4, 4), 240, np.uint8)))
    labels = torch.tensor([0] * 30 + [1] * 30)
    train, test = Pixels(images, labels), Pixels(images[25:35], labels[25:35])
    built = BuiltModel(MeanEmbedding(), "mean", {"num_classes": 0}, plain_preprocessing(image_size=4, channels=1))
    evaluator = EmbeddingEvaluator(
        train=train, test=test, num_classes=num_classes, device=torch.device("cpu"), poll=lambda: None
    )
    return evaluator(built)


def test_a_network_without_a_classifier_is_evaluated_by_its_embeddings():
    result = evaluate(2)

    assert result.accuracy.top1 == 1.0
    assert result.details == {
        "top1_metric": KNN_METRIC,
        "knn": {"num_neighbors": 20, "temperature": 0.07, "num_train": 60},
        "linear_probe_top1": 1.0,
        "linear_probe": {"ridge": 1e-4, "num_train": 60, "num_held_out": 6},
    }


def test_without_labels_there_is_no_accuracy():
    assert evaluate(None).accuracy is None


@pytest.mark.parametrize("count", [1, 3])
def test_in_a_split_smaller_than_k_all_images_vote(count):
    votes = knn_votes(torch.eye(3)[:count], torch.arange(count), torch.eye(3), 3)

    assert (votes > 0).sum(dim=1).tolist() == [count] * 3
