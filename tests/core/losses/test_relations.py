"""Relations between samples: literal sums, and invariance to motions of the feature space."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses import (
    correlation,
    probabilistic_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
)

STEADY = settings(deadline=None, derandomize=True, max_examples=30)

B = 4
RELATIONS = [similarity_preserving, probabilistic_transfer, relational_distance, relational_angle]
seeds = st.integers(0, 2**32)


def pair():
    generator = torch.Generator().manual_seed(7)
    return torch.randn(B, 6, generator=generator), torch.randn(B, 9, generator=generator)


def rotation(size, seed):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))[0]


def smooth_l1(a, b):
    gap = abs(a - b)
    return 0.5 * gap**2 if gap < 1 else gap - 0.5


def distances(features):
    matrix = [[math.dist(a, b) for b in features.tolist()] for a in features.tolist()]
    mean = sum(map(sum, matrix)) / (B * (B - 1))
    return [[entry / mean for entry in row] for row in matrix]


def angle(features, i, j, k):
    a, b = features[i] - features[k], features[j] - features[k]
    size = (a.norm() * b.norm()).item()
    return (a @ b).item() / size if size else 0.0


def test_relational_distance_equals_the_literal_sum_over_pairs():
    student, teacher = map(distances, pair())
    total = sum(smooth_l1(student[i][j], teacher[i][j]) for i in range(B) for j in range(B))

    assert relational_distance(*pair()).item() == pytest.approx(total / B**2, rel=1e-5)


def test_relational_angle_equals_the_literal_sum_over_triples():
    student, teacher = pair()
    triples = [(i, j, k) for i in range(B) for j in range(B) for k in range(B)]
    total = sum(smooth_l1(angle(student, *triple), angle(teacher, *triple)) for triple in triples)

    assert relational_angle(student, teacher).item() == pytest.approx(total / B**3, rel=1e-5)


def test_similarity_preserving_equals_the_literal_sum_over_rows():
    student, teacher = pair()
    total = 0.0
    for i in range(B):
        s, t = ([(f[i] @ f[j]).item() for j in range(B)] for f in (student, teacher))
        total += sum((b / math.hypot(*t) - a / math.hypot(*s)) ** 2 for a, b in zip(s, t, strict=True))

    assert similarity_preserving(student, teacher).item() == pytest.approx(total / B**2, rel=1e-5)


def test_probabilistic_transfer_equals_the_literal_sum_over_neighbors():
    student, teacher = (features.double() for features in pair())
    total = 0.0
    for i in range(B):
        s, t = (
            [torch.cosine_similarity(f[i], f[j], dim=0).item() / 2 + 0.5 for j in range(B)] for f in (student, teacher)
        )
        total += sum(b / sum(t) * math.log(b / sum(t) / (a / sum(s))) for a, b in zip(s, t, strict=True))

    assert probabilistic_transfer(*pair()).item() == pytest.approx(total / B**2, rel=1e-4)


def test_correlation_multiplies_the_gaps_of_adjacent_samples():
    student, teacher = (
        torch.tensor([[1.0, 2.0], [0.0, 0.0], [5.0, 1.0]]),
        torch.tensor([[0.0, 0.0], [3.0, -1.0], [1.0, 1.0]]),
    )

    # Gaps (1, 2), (3, 1), (4, 0): 1·3 + 2·1 = 5 and 3·4 + 1·0 = 12.
    assert correlation(student, teacher).item() == pytest.approx(0.02 * (5 + 12) / 2)


@pytest.mark.parametrize("loss", RELATIONS)
@STEADY
@given(seed=seeds)
def test_losses_are_invariant_to_a_rotation_of_the_features(loss, seed):
    student, teacher = pair()

    turned = loss(student @ rotation(6, seed), teacher @ rotation(9, seed + 1))

    assert turned.item() == pytest.approx(loss(student, teacher).item(), rel=1e-3)


@pytest.mark.parametrize("loss", RELATIONS)
@STEADY
@given(scale=st.floats(0.01, 100))
def test_losses_are_invariant_to_the_scale_of_the_features(loss, scale):
    student, teacher = pair()

    assert loss(scale * student, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-3)


@pytest.mark.parametrize("loss", [relational_distance, relational_angle])
@STEADY
@given(shift=st.floats(-3, 3))
def test_distances_and_angles_are_invariant_to_a_shift_of_all_features(loss, shift):
    student, teacher = pair()

    assert loss(student + shift, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-3)


@pytest.mark.parametrize("loss", [relational_distance, relational_angle])
def test_gradients_are_finite_for_two_equal_samples(loss):
    student, teacher = pair()
    student[1] = student[0]

    loss(student.requires_grad_(), teacher).backward()

    assert student.grad.isfinite().all()
    assert student.grad.norm() > 0


@pytest.mark.parametrize("loss", [relational_distance, relational_angle, correlation])
def test_a_single_sample_has_no_relation(loss):
    with pytest.raises(ValueError, match="at least 2 samples"):
        loss(torch.zeros(1, 4), torch.zeros(1, 4))


def test_correlated_embeddings_must_have_one_width():
    with pytest.raises(ValueError, match="same shape"):
        correlation(torch.zeros(3, 4), torch.zeros(3, 5))
