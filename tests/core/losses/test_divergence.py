"""Soft-label divergence, against the official code's numbers and by hand."""

import math

import pytest
import torch

from core.losses import kd


def draw(*shapes):
    """The golden values' draws: torch.manual_seed(0), then 3 · randn in the listed order."""
    torch.manual_seed(0)
    return [3.0 * torch.randn(shape) for shape in shapes]


def test_kd_gives_mdistillers_value():
    student, teacher = draw((4, 7), (4, 7))
    student.requires_grad_()

    loss = kd(student, teacher, temperature=1.0)
    loss.backward()

    assert loss.item() == pytest.approx(1.6398953280338961, rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(0.38552148144112813, rel=1e-5)


def test_kd_weighted_by_sample_gives_attention_probes_value():
    student, teacher = draw((4, 7), (4, 7))
    weights = torch.rand(4)

    per_sample = torch.stack([kd(student[i : i + 1], teacher[i : i + 1], temperature=4.0) for i in range(4)])

    assert (weights * per_sample).mean().item() == pytest.approx(2.7553761438049404, rel=1e-5)


def test_the_element_reduction_divides_by_classes_too():
    student, teacher = draw((4, 7), (4, 7))

    by_sample = kd(student, teacher, temperature=2.0)
    by_element = kd(student, teacher, temperature=2.0, reduction="element")

    assert by_element.item() == pytest.approx(by_sample.item() / 7, rel=1e-6)


def test_kd_of_two_classes_equals_the_sum_written_out():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0) * 2, 0.0]])

    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))

    assert kd(student, teacher, temperature=2.0).item() == pytest.approx(expected, rel=1e-6)


def test_kd_sends_no_gradient_to_the_teacher():
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
