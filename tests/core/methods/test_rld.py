"""Refined logits: official value, and the classes that are not taught."""

import pytest
import torch
import torch.nn.functional as F

from core.losses import refined
from core.methods import Outputs, StepInfo, build_method
from core.spec.methods.rld import RldParams

FIRST, LATER = StepInfo(step=0, total_steps=10, epoch=0.0, epochs=2), StepInfo(6, 10, 1.2, 2)


def test_the_loss_is_that_of_the_official_code():
    torch.manual_seed(0)
    student, teacher, target = 3 * torch.randn(6, 7), 3 * torch.randn(6, 7), torch.randint(0, 7, (6,))
    student.requires_grad_()

    loss = refined(student, teacher, target, alpha=1.0, beta=8.0, temperature=4.0)
    loss.backward()

    assert loss.item() == pytest.approx(25.703235, rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(4.6850271, rel=1e-5)


def test_classes_that_the_teacher_ranks_above_the_label_have_no_gradient():
    student = torch.zeros(1, 4, requires_grad=True)
    teacher, target = torch.tensor([[5.0, 2.0, 1.0, -1.0]]), torch.tensor([1])

    refined(student, teacher, target, alpha=0.0, beta=1.0, temperature=1.0).backward()

    assert student.grad[0, :2].tolist() == [0, 0]
    assert student.grad[0, 2] < 0 < student.grad[0, 3]


def test_a_label_that_the_teacher_ranks_last_adds_nothing():
    loss = refined(
        torch.randn(1, 3), torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([2]), alpha=0.0, beta=1.0, temperature=1.0
    )

    assert loss == 0


def test_the_confidence_of_a_wrong_teacher_raises_the_label():
    student = torch.zeros(1, 3, requires_grad=True)

    refined(student, torch.tensor([[4.0, 0, 0]]), torch.tensor([2]), alpha=1.0, beta=0.0, temperature=1.0).backward()

    assert student.grad[0, 2] < 0 < student.grad[0, 0]


def test_standardized_logits_ignore_scale_and_shift(batch, logits):
    options = {"beta": 1.0, "temperature": 1.0, "standardized": True}

    loss = refined(logits(1), logits(2), batch.labels, **options)

    assert refined(3 * logits(1) + 1, 0.5 * logits(2) - 2, batch.labels, **options).item() == pytest.approx(loss.item())


def test_the_loss_grows_over_the_first_epochs_and_the_labels_do_not(context, batch, logits):
    method = build_method(RldParams(name="rld", beta=2.0, warmup_epochs=1.0), context)
    outputs = Outputs(logits(1)), [Outputs(logits(2))]

    first, later = method.loss(batch, *outputs, FIRST), method.loss(batch, *outputs, LATER)

    expected = refined(logits(1), logits(2), batch.labels, beta=2.0, temperature=1.0).item()
    assert later["distillation"].item() == pytest.approx(expected, rel=1e-6)
    assert first["distillation"].item() == pytest.approx(expected / 5, rel=1e-6)  # after the first of 5 steps
    assert first["label"].item() == later["label"].item()
    assert first["label"].item() == pytest.approx(F.cross_entropy(logits(1), batch.labels).item(), rel=1e-6)
