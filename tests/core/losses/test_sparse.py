"""Sparse soft labels, of which only some classes are stored."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses import cross_entropy_kd, dense_soft_labels, sparse_soft_labels

STEADY = settings(deadline=None, derandomize=True, max_examples=30)


def test_the_rest_of_the_mass_is_spread_evenly():
    index, probability = torch.tensor([[3, 0]]), torch.tensor([[0.5, 0.2]])

    dense = dense_soft_labels(index, probability, num_classes=5)

    torch.testing.assert_close(dense, torch.tensor([[0.2, 0.1, 0.1, 0.5, 0.1]]))


def test_a_sum_above_one_leaves_no_mass_for_the_others():
    index, probability = torch.tensor([[2, 0]]), torch.tensor([[1.0, 0.01]])

    assert dense_soft_labels(index, probability, num_classes=3)[0, 1] == 0
    assert dense_soft_labels(index, probability, num_classes=3, clamp=False)[0, 1].item() == pytest.approx(-0.01)


def test_the_loss_is_the_cross_entropy_with_the_dense_labels():
    student = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    probability, index = student.flip(0).softmax(dim=1).topk(2)
    target = dense_soft_labels(index, probability, num_classes=6)

    loss = sparse_soft_labels(student, index, probability)

    torch.testing.assert_close(loss, -(target * student.softmax(dim=1).log()).sum(dim=1).mean())


@STEADY
@given(st.integers(1, 6), st.integers(0, 2**32))
def test_dense_labels_contain_the_stored_classes_and_sum_to_one(num_stored, seed):
    probabilities = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)
    stored, index = probabilities.topk(num_stored)

    dense = dense_soft_labels(index, stored, num_classes=6)

    torch.testing.assert_close(dense.gather(1, index), stored)
    torch.testing.assert_close(dense.sum(dim=1), torch.ones(2))


def test_all_classes_stored_equal_the_teachers_soft_labels():
    student, teacher = (torch.randn(3, 6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    probability, index = teacher.softmax(dim=1).topk(6)

    loss = sparse_soft_labels(student, index, probability)

    torch.testing.assert_close(loss, cross_entropy_kd(student, teacher, temperature=1.0))


def test_stored_dtypes_are_supported():
    index, probability = torch.tensor([[3, 0]]), torch.tensor([[0.5, 0.25]])
    student = torch.tensor([[0.0, 1.0, 2.0, 3.0]])

    loss = sparse_soft_labels(student, index.to(torch.int16), probability.half())

    torch.testing.assert_close(loss, sparse_soft_labels(student, index, probability))


def test_stored_probabilities_have_no_gradient():
    probability = torch.tensor([[0.5, 0.25]], requires_grad=True)

    loss = sparse_soft_labels(torch.zeros(1, 4, requires_grad=True), torch.tensor([[3, 0]]), probability)
    loss.backward()

    assert probability.grad is None


@pytest.mark.parametrize(
    ("index", "probability", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 2), "same shape"),
        (torch.zeros(2, 5), torch.zeros(2, 5), "do not fit 4 classes"),
        (torch.zeros(3, 2), torch.zeros(3, 2), "do not match logits"),
    ],
)
def test_invalid_stored_labels_are_rejected(index, probability, message):
    with pytest.raises(ValueError, match=message):
        sparse_soft_labels(torch.zeros(2, 4), index.long(), probability)
