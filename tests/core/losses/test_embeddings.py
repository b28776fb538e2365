"""Losses in the teacher's space match UNIC's and TAO's official code; draws follow torch.manual_seed(0)."""

import pytest
import torch

from core.losses import drop_teachers, embedding_match
from tests.support.golden import draw

UNIC = {"cosine_weight": 0.5, "smooth_l1_weight": 0.5, "reduction": "sample"}


def unic_losses(widths, *, size, patches, **weights):
    """Draw student and teacher of each width, summaries before patches; return each teacher's loss by sample."""
    torch.manual_seed(0)
    losses = []
    for width in widths:
        shapes = [(size, width), (size, patches, width)] if patches else [(size, width)]
        pairs = [(draw(*shape), draw(*shape, scale=1.5)) for shape in shapes]
        matches = [embedding_match(student, teacher, **UNIC | weights) for student, teacher in pairs]
        losses.append(torch.stack(matches).mean(dim=0))
    return torch.stack(losses)


def test_the_loss_of_each_sample_matches_unic():
    expected = [
        [0.8191659970387206, 1.0641706426670257, 0.9522304365116427, 1.3633032278073116],
        [0.6363785755700677, 1.4748032189709703, 0.827120572305688, 1.2087453491789617],
    ]

    assert unic_losses([8, 6], size=4, patches=9).tolist() == [pytest.approx(row, rel=1e-5) for row in expected]


def test_the_balanced_loss_matches_tao():
    torch.manual_seed(0)
    student, teacher = draw(4, 9, 8, scale=2.0).requires_grad_(), draw(4, 9, 8, scale=2.0)

    loss = embedding_match(student, teacher, cosine_weight=0.9, smooth_l1_weight=0.1, beta=2.0)
    loss.backward()

    assert loss.item() == pytest.approx(1.0095874541153238, rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(0.034830041395712816, rel=1e-5)


@pytest.mark.parametrize(
    ("widths", "size", "patches", "weights", "probability", "total", "shares"),
    [
        ((8, 8), 4, 9, {}, 0.5, 1.0749698116340085, [0.6, 0.4]),
        (
            (8, 8, 5), 6, 0, {"cosine_weight": 0.7, "smooth_l1_weight": 0.3}, 0.3,
            1.0306125402893236, [0.375, 0.25, 0.375],
        ),
    ],
)  # fmt: skip
def test_dropped_teachers_match_unic(widths, size, patches, weights, probability, total, shares):
    losses_TB = unic_losses(widths, size=size, patches=patches, **weights)

    weights_TB = drop_teachers(losses_TB, torch.rand(len(widths), size), probability=probability)

    assert (weights_TB * losses_TB).sum().item() == pytest.approx(total, rel=1e-5)
    assert weights_TB.sum(dim=1).tolist() == pytest.approx(shares, rel=1e-6)


@pytest.mark.parametrize(("probability", "kept"), [(0.0, [[1, 1], [1, 1]]), (1.0, [[1, 0], [0, 1]])])
def test_the_teacher_with_the_largest_loss_always_stays(probability, kept):
    losses_TB, draws_TB = torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.full((2, 2), 0.5)

    weights_TB = drop_teachers(losses_TB, draws_TB, probability=probability)

    assert (weights_TB / weights_TB.max()).tolist() == kept
    assert weights_TB.sum().item() == pytest.approx(1)


def test_a_zero_embedding_has_a_finite_loss():
    loss = embedding_match(torch.zeros(1, 3), torch.ones(1, 3), cosine_weight=1.0, smooth_l1_weight=0.0)

    assert loss.item() == 1


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        embedding_match(torch.ones(2, 3), torch.ones(2, 4), cosine_weight=1.0, smooth_l1_weight=0.0)
    with pytest.raises(ValueError, match=r"\(T, B\)"):
        drop_teachers(torch.ones(2, 3), torch.ones(3, 2), probability=0.5)
