"""Similarity-preserving distillation of embeddings, or of all positions of the last features."""

import pytest
import torch

from core.methods import Outputs
from core.models.taps import Feature, FeatureRequest


def literal(student, teacher):
    """The paper's formula, entry by entry."""
    count, total = len(student), 0.0
    grams = [[[(a * b).sum().item() for b in rows] for a in rows] for rows in (student.flatten(1), teacher.flatten(1))]
    for i in range(count):
        norms = [sum(x**2 for x in gram[i]) ** 0.5 for gram in grams]
        total += sum((grams[0][i][j] / norms[0] - grams[1][i][j] / norms[1]) ** 2 for j in range(count))
    return total / count**2


def test_embeddings_are_compared_by_default(make_harness, batch):
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 5), torch.randn(6, 7)
    method = make_harness("similarity").method

    terms = method.feature_terms(
        batch, Outputs(torch.zeros(6, 4), embedding=student), [Outputs(torch.zeros(6, 4), embedding=teacher)]
    )

    assert method.student_taps == method.teacher_taps == FeatureRequest(embedding=True)
    assert {n: t.item() for n, t in terms.items()} == {"similarity": pytest.approx(literal(student, teacher), rel=1e-4)}


def test_all_positions_of_the_last_features_are_compared_if_requested(make_harness, batch):
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4, 5), torch.randn(6, 1, 7)
    method = make_harness("similarity", features="last").method

    terms = method.feature_terms(
        batch,
        Outputs(torch.zeros(6, 4), last=Feature(student, (2, 2), prefix=torch.randn(6, 1, 5))),
        [Outputs(torch.zeros(6, 4), last=Feature(teacher, (1, 1)))],
    )

    assert method.student_taps == method.teacher_taps == FeatureRequest(last=True)
    assert terms["similarity"].item() == pytest.approx(literal(student, teacher), rel=1e-4)


@pytest.mark.parametrize("features", ["embedding", "last"])
def test_a_vit_learns_from_a_cnn_with_the_weight_of_the_literature(make_harness, batch, features):
    harness = make_harness("similarity", teachers=("cnn",), features=features)
    plain = make_harness("similarity", teachers=("cnn",), features=features, weight=1.0)

    assert harness.terms(batch)["similarity"].item() == pytest.approx(
        3000 * plain.terms(batch)["similarity"].item(), rel=1e-4
    )
