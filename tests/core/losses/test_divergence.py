"""Divergences of soft labels by hand; official values are in test_golden.py."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses import binary_kd, cross_entropy_kd, kd

STEADY = settings(deadline=None, derandomize=True, max_examples=30)


def draw(*shapes):
    """Draws of the golden values: torch.manual_seed(0), then 3 · randn in the listed order."""
    torch.manual_seed(0)
    return [3.0 * torch.randn(shape) for shape in shapes]


def test_element_reduction_also_divides_by_classes():
    student, teacher = draw((4, 7), (4, 7))

    by_sample = kd(student, teacher, temperature=2.0)
    by_element = kd(student, teacher, temperature=2.0, reduction="element")

    assert by_element.item() == pytest.approx(by_sample.item() / 7, rel=1e-6)


def test_kd_of_two_classes_equals_the_literal_sum():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0) * 2, 0.0]])

    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))

    assert kd(student, teacher, temperature=2.0).item() == pytest.approx(expected, rel=1e-6)


def test_kd_has_no_gradient_to_the_teacher():
    student, teacher = (t.requires_grad_() for t in draw((4, 7), (4, 7)))

    kd(student, teacher, temperature=4.0).backward()

    assert teacher.grad is None
    assert student.grad is not None


def test_kd_of_half_precision_logits_is_computed_in_float32():
    student, teacher = draw((4, 7), (4, 7))
    halves = student.bfloat16(), teacher.bfloat16()

    loss = kd(*halves, temperature=4.0)

    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(kd(*(h.float() for h in halves), temperature=4.0).item(), rel=1e-6)


def test_cross_entropy_kd_has_the_gradient_of_kd_and_the_entropy_as_minimum():
    student, teacher = draw((4, 7), (4, 7))
    gradients = []
    for loss in (kd, cross_entropy_kd):
        leaf = student.clone().requires_grad_()
        loss(leaf, teacher, temperature=2.0).backward()
        gradients.append(leaf.grad)
    probabilities = (teacher / 2).softmax(dim=1)

    entropy = -4 * (probabilities * probabilities.log()).sum(dim=1).mean()

    torch.testing.assert_close(gradients[1], gradients[0])
    assert cross_entropy_kd(teacher, teacher, temperature=2.0).item() == pytest.approx(entropy.item(), rel=1e-5)


def test_binary_kd_equals_the_literal_sum():
    student, teacher = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.0, math.log(3.0)]])
    expected = 0.0
    for logit, share in ((0.5, 0.25), (-1.0, 0.75)):
        chance = 1 / (1 + math.exp(-logit))
        expected -= (share * math.log(chance) + (1 - share) * math.log(1 - chance)) / 2

    assert binary_kd(student, teacher).item() == pytest.approx(expected, rel=1e-6)


@STEADY
@given(st.floats(-50, 50), st.floats(0.5, 8))
def test_kd_is_invariant_to_a_constant_added_to_all_logits(shift, temperature):
    student, teacher = draw((4, 7), (4, 7))

    moved = kd(student + shift, teacher - shift, temperature=temperature).item()

    assert moved == pytest.approx(kd(student, teacher, temperature=temperature).item(), rel=1e-4)


@pytest.mark.parametrize("loss", [kd, cross_entropy_kd])
def test_logits_that_would_broadcast_are_rejected(loss):
    with pytest.raises(ValueError, match="same shape"):
        loss(torch.zeros(4, 7), torch.zeros(4, 1), temperature=1.0)
