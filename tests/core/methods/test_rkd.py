"""Relational distillation: weights, and the limit of samples for angles."""

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


def test_distances_and_angles_have_the_weights_of_the_paper(make_harness, batch, embeddings):
    student, teacher = embeddings

    terms = make_harness("rkd").method.feature_terms(batch, embedded(student), [embedded(teacher)])

    assert list(terms) == ["distance", "angle"]
    assert terms["distance"].item() == pytest.approx(25 * relational_distance(student, teacher).item(), rel=1e-6)
    assert terms["angle"].item() == pytest.approx(50 * relational_angle(student, teacher).item(), rel=1e-6)


def test_each_weight_can_be_chosen(make_harness, batch, embeddings):
    student, teacher = embeddings
    method = make_harness("rkd", distance_weight=1.0, angle_weight=0.0).method

    terms = method.feature_terms(batch, embedded(student), [embedded(teacher)])

    assert terms["distance"].item() == pytest.approx(relational_distance(student, teacher).item(), rel=1e-6)
    assert terms["angle"].item() == 0


def test_angles_are_computed_among_the_first_samples(make_harness, batch, embeddings):
    student, teacher = embeddings

    terms = make_harness("rkd", angle_samples=4).method.feature_terms(batch, embedded(student), [embedded(teacher)])

    assert terms["angle"].item() == pytest.approx(50 * relational_angle(student[:4], teacher[:4]).item(), rel=1e-6)
    assert terms["distance"].item() == pytest.approx(25 * relational_distance(student, teacher).item(), rel=1e-6)


def test_embeddings_of_a_vit_and_a_cnn_are_compared_without_projection(make_harness, batch):
    harness = make_harness("rkd", teachers=("cnn",))

    assert harness.method.student_taps == harness.method.teacher_taps == FeatureRequest(embedding=True)
    assert not list(harness.method.parameters())
    assert harness.terms(batch)["angle"] > 0
