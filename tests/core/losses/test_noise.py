"""Noise adaptation of Attention Probe."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses import noise_adaptation, noise_matrix

STEADY = settings(deadline=None, derandomize=True, max_examples=30)


def test_the_noise_matrix_has_the_accuracy_on_its_diagonal_and_a_softmax_elsewhere():
    free = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]])

    matrix = noise_matrix(free, teacher_accuracy=0.6)

    expected = [[0.6, 0.1, 0.3], [0.2, 0.6, 0.2], [0.32, 0.08, 0.6]]
    torch.testing.assert_close(matrix, torch.tensor(expected))


@STEADY
@given(st.integers(2, 8), st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_rows_of_the_matrix_are_probabilities(num_classes, accuracy, seed):
    free = 5 * torch.randn(num_classes, num_classes - 1, generator=torch.Generator().manual_seed(seed))

    matrix = noise_matrix(free, teacher_accuracy=accuracy)

    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(num_classes))
    torch.testing.assert_close(matrix.diagonal(), torch.full((num_classes,), accuracy))


def test_noise_adaptation_equals_the_literal_sum_over_true_classes():
    generator = torch.Generator().manual_seed(4)
    student, teacher, free = (torch.randn(shape, generator=generator) for shape in ((3, 4), (3, 4), (4, 3)))
    matrix, chances = noise_matrix(free, teacher_accuracy=0.7), student.softmax(dim=1)
    total = 0.0
    for b in range(3):
        named = int(teacher[b].argmax())
        total -= math.log(sum((chances[b, true] * matrix[true, named]).item() for true in range(4)))

    assert noise_adaptation(student, teacher, free, teacher_accuracy=0.7).item() == pytest.approx(total / 3, rel=1e-5)


def test_the_matrix_has_a_gradient_and_the_teacher_has_none():
    generator = torch.Generator().manual_seed(4)
    shapes = ((3, 4), (3, 4), (4, 3))
    student, teacher, free = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)

    noise_adaptation(student, teacher, free, teacher_accuracy=0.7).backward()

    assert student.grad.norm() > 0
    assert free.grad.norm() > 0
    assert teacher.grad is None


def test_the_loss_is_finite_for_extreme_free_logits():
    free = torch.tensor([[1e4, 0.0], [0.0, 0.0], [0.0, 1e4]], requires_grad=True)
    student = torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True)

    loss = noise_adaptation(student, torch.tensor([[0.0, 0.0, 1.0]]), free, teacher_accuracy=0.9)
    loss.backward()

    assert loss.isfinite()
    assert free.grad.isfinite().all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("accuracy", [0.0, 1.0, 1.5])
def test_an_accuracy_of_0_or_1_is_rejected(accuracy):
    with pytest.raises(ValueError, match="between 0 and 1"):
        noise_matrix(torch.zeros(3, 2), teacher_accuracy=accuracy)


def test_a_square_free_matrix_is_rejected():
    with pytest.raises(ValueError, match="C − 1"):
        noise_matrix(torch.zeros(3, 3), teacher_accuracy=0.5)


def test_a_matrix_of_another_number_of_classes_is_rejected():
    with pytest.raises(ValueError, match="does not fit"):
        noise_adaptation(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(3, 2), teacher_accuracy=0.5)
