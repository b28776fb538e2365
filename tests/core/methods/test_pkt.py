"""Probabilistic transfer: neighbours of embeddings."""

import math

import pytest
import torch

from core.methods import Outputs
from core.models.taps import FeatureRequest


def neighbours(rows):
    """A sample's probability of being another's neighbour, written out."""
    table = [[(torch.dot(a, b) / (a.norm() * b.norm())).item() / 2 + 0.5 for b in rows] for a in rows]
    return [[x / sum(row) for x in row] for row in table]


def test_the_term_is_the_divergence_of_neighbourhoods_written_out(lesson, batch):
    torch.manual_seed(0)
    mine, guide = torch.randn(6, 5), torch.randn(6, 7)
    method = lesson("pkt").method

    terms = method.feature_terms(
        batch, Outputs(torch.zeros(6, 4), embedding=mine), [Outputs(torch.zeros(6, 4), embedding=guide)]
    )

    pairs = [
        (t, s) for ts, ss in zip(neighbours(guide), neighbours(mine), strict=True) for t, s in zip(ts, ss, strict=True)
    ]
    expected = sum(t * math.log(t / s) for t, s in pairs) / 36
    assert {n: t.item() for n, t in terms.items()} == {"neighbours": pytest.approx(expected, rel=1e-3)}


def test_a_vit_learns_from_a_cnn_with_the_weight_of_the_literature(lesson, batch):
    made = lesson("pkt", teachers=("cnn",))
    plain = lesson("pkt", teachers=("cnn",), weight=1.0)

    assert made.method.student_taps == made.method.teacher_taps == FeatureRequest(embedding=True)
    assert not list(made.method.parameters())
    assert made.terms(batch)["neighbours"].item() == pytest.approx(30_000 * plain.terms(batch)["neighbours"].item())
