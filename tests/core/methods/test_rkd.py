"""Relations of embeddings: the official code's numbers, weights, and a cap on the angles."""

import pytest
import torch

from core.losses import relational_angle, relational_distance
from core.methods import Outputs
from core.models.taps import FeatureRequest


def embedded(rows):
    return Outputs(torch.zeros(len(rows), 4), embedding=rows)


@pytest.fixture
def embeddings():
    torch.manual_seed(0)
    return torch.randn(6, 5), torch.randn(6, 7)


def test_distances_and_angles_have_the_weights_of_the_paper(lesson, batch, embeddings):
    mine, guide = embeddings

    terms = lesson("rkd").method.feature_terms(batch, embedded(mine), [embedded(guide)])

    assert list(terms) == ["distance", "angle"]
    assert terms["distance"].item() == pytest.approx(25 * relational_distance(mine, guide).item(), rel=1e-6)
    assert terms["angle"].item() == pytest.approx(50 * relational_angle(mine, guide).item(), rel=1e-6)


def test_each_weight_can_be_chosen(lesson, batch, embeddings):
    mine, guide = embeddings
    method = lesson("rkd", distance_weight=1.0, angle_weight=0.0).method

    terms = method.feature_terms(batch, embedded(mine), [embedded(guide)])

    assert terms["distance"].item() == pytest.approx(relational_distance(mine, guide).item(), rel=1e-6)
    assert terms["angle"].item() == 0


def test_angles_are_taken_between_the_first_samples_alone(lesson, batch, embeddings):
    mine, guide = embeddings

    terms = lesson("rkd", angle_samples=4).method.feature_terms(batch, embedded(mine), [embedded(guide)])

    assert terms["angle"].item() == pytest.approx(50 * relational_angle(mine[:4], guide[:4]).item(), rel=1e-6)
    assert terms["distance"].item() == pytest.approx(25 * relational_distance(mine, guide).item(), rel=1e-6)


def test_embeddings_of_a_vit_and_a_cnn_are_compared_as_they_are(lesson, batch):
    made = lesson("rkd", teachers=("cnn",))

    assert made.method.student_taps == made.method.teacher_taps == FeatureRequest(embedding=True)
    assert not list(made.method.parameters())
    assert made.terms(batch)["angle"] > 0
