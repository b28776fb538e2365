"""Wasserstein distances match the official code (golden values), and properties of a distance."""

import pytest
import torch
import torch.nn.functional as F

from core.losses import class_distances, wasserstein_features, wasserstein_logits
from tests.support.golden import draw

OPTIONS = {"temperature": 2.0, "weight": 30.0}


def golden():
    torch.manual_seed(0)
    student, teacher = draw(4, 7, scale=3.0).requires_grad_(), draw(4, 7, scale=3.0)
    target, distance = torch.randint(0, 7, (4,)), torch.rand(7, 7)
    cost = 1 - torch.exp(-((distance + distance.T) / 2).fill_diagonal_(0))
    return student, teacher, target, cost


def test_logits_match_the_official_code():
    student, teacher, target, cost = golden()

    loss = wasserstein_logits(student, teacher, target, cost, **OPTIONS)
    loss.backward()

    assert loss.item() == pytest.approx(4.9697264, rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(0.56459252, rel=1e-4)


def test_without_a_target_all_classes_are_compared():
    student, teacher, _, cost = golden()

    assert wasserstein_logits(student, teacher, None, cost, temperature=2.0, weight=1.0).item() == pytest.approx(
        0.16202769, rel=1e-5
    )


def test_without_weight_only_the_targets_term_is_left():
    student, teacher, target, cost = golden()
    log_student, confidence = F.log_softmax(student, dim=1), F.softmax(teacher, dim=1)
    expected = -sum(confidence[i, y] * log_student[i, y] for i, y in enumerate(target)) / 4

    loss = wasserstein_logits(student, teacher, target, cost, temperature=2.0, weight=0.0)

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_similar_classes_cost_less():
    teacher = torch.tensor([[0.0, 9.0, 0.0, 0.0]])
    near, far = torch.tensor([[0.0, 0.0, 9.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0, 9.0]])
    cost = torch.ones(4, 4).fill_diagonal_(0)
    cost[1, 2] = cost[2, 1] = 0.2

    losses = [
        wasserstein_logits(student, teacher, torch.tensor([0]), cost, temperature=1.0, weight=1.0).item()
        for student in (teacher, near, far)
    ]

    assert losses[0] < losses[1] < losses[2]


def test_features_match_the_official_code():
    torch.manual_seed(0)
    student, teacher = draw(4, 6, 4, 4).requires_grad_(), draw(4, 6, 4, 4, scale=2.0)

    loss = wasserstein_features(student, teacher)
    loss.backward()

    assert loss.item() == pytest.approx(13.478562, rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(1.0586873, rel=1e-5)
    means = 2 * wasserstein_features(student, teacher, mean_weight=1.0) - wasserstein_features(student, teacher)
    assert means.item() == pytest.approx(9.6684398, rel=1e-5)  # the deviations alone


def test_a_grid_compares_windows():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    corners = [
        wasserstein_features(student[:, :, i : i + 2, j : j + 2], teacher[:, :, i : i + 2, j : j + 2])
        for i in (0, 2)
        for j in (0, 2)
    ]

    loss = wasserstein_features(student, teacher, grid=2)

    assert loss.item() == pytest.approx(torch.stack(corners).mean().item(), rel=1e-5)


def test_class_distances_match_the_official_code():
    torch.manual_seed(0)

    distances = class_distances(draw(5, 8, 6))

    rows = [
        [0.0, 0.65013617, 0.65918632, 0.63389455, 0.54739253],
        [0.65013617, 0.0, 0.57443835, 0.58838088, 0.44127948],
        [0.65918632, 0.57443835, 0.0, 0.39954055, 0.54396983],
        [0.63389455, 0.58838088, 0.39954055, 0.0, 0.55976077],
        [0.54739253, 0.44127948, 0.54396983, 0.55976077, 0.0],
    ]
    torch.testing.assert_close(distances, torch.tensor(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wasserstein_logits(torch.zeros(2, 3), torch.zeros(2, 3), None, torch.zeros(2, 2), **OPTIONS), "cost"),
        (lambda: wasserstein_features(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 4)), "the teacher's shape"),
        (lambda: wasserstein_features(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), grid=4), "lower grid"),
        (lambda: class_distances(torch.zeros(5, 1, 6)), "two or more samples"),
    ],
)
def test_other_shapes_are_rejected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
