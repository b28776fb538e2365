"""Probabilistic knowledge transfer: neighbors of embeddings."""

import math

import pytest
import torch

from core.methods import Outputs
from core.models.taps import FeatureRequest


def neighbours(rows):
    """Each sample's probability of being another's neighbor, in plain loops."""
    table = [[(torch.dot(a, b) / (a.norm() * b.norm())).item() / 2 + 0.5 for b in rows] for a in rows]
    return [[x / sum(row) for x in row] for row in table]


def test_the_term_is_the_divergence_of_neighbor_distributions(make_harness, batch):
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 5), torch.randn(6, 7)
    method = make_harness("pkt").method

    terms = method.feature_terms(
        batch, Outputs(torch.zeros(6, 4), embedding=student), [Outputs(torch.zeros(6, 4), embedding=teacher)]
    )

    pairs = [
        (t, s)
        for ts, ss in zip(neighbours(teacher), neighbours(student), strict=True)
        for t, s in zip(ts, ss, strict=True)
    ]
    expected = sum(t * math.log(t / s) for t, s in pairs) / 36
    assert {n: t.item() for n, t in terms.items()} == {"neighbours": pytest.approx(expected, rel=1e-3)}


def test_a_vit_learns_from_a_cnn_with_the_weight_of_the_literature(make_harness, batch):
    harness = make_harness("pkt", teachers=("cnn",))
    plain = make_harness("pkt", teachers=("cnn",), weight=1.0)

    assert harness.method.student_taps == harness.method.teacher_taps == FeatureRequest(embedding=True)
    assert not list(harness.method.parameters())
    assert harness.terms(batch)["neighbours"].item() == pytest.approx(30_000 * plain.terms(batch)["neighbours"].item())
