"""Losses that separate the target class: literal sums and invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses import decoupled, kd, normalized, one_for_all, weighted_soft_labels

STEADY = settings(deadline=None, derandomize=True, max_examples=30)

LABELS = torch.tensor([1, 0, 4])
LOSSES = {
    "decoupled": lambda s, t: decoupled(s, t, LABELS, alpha=1.0, beta=4.0, temperature=2.0),
    "normalized": lambda s, t: normalized(s, t, LABELS, gamma=1.5, temperature=2.0),
    "one_for_all": lambda s, t: one_for_all(s, t, LABELS, epsilon=1.5, temperature=2.0),
    "weighted_soft_labels": lambda s, t: weighted_soft_labels(s, t, LABELS, alpha=2.0, temperature=2.0),
}


def pair():
    generator = torch.Generator().manual_seed(3)
    return 2 * torch.randn(3, 5, generator=generator), 2 * torch.randn(3, 5, generator=generator)


def softmax(logits, temperature=1.0):
    powers = [math.exp(z / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def rows(*logits):
    return zip(*(tensor.tolist() for tensor in logits), LABELS.tolist(), strict=True)


def without(values, label):
    return [value for k, value in enumerate(values) if k != label]


def test_decoupled_equals_binary_divergence_plus_divergence_of_other_classes():
    student, teacher = pair()
    total = 0.0
    for s, t, y in rows(student, teacher):
        p, q = softmax(s, 2)[y], softmax(t, 2)[y]
        total += 4 * (q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)))
        others = zip(softmax(without(t, y), 2), softmax(without(s, y), 2), strict=True)
        total += 4 * 4 * sum(b * math.log(b / a) for b, a in others)

    assert LOSSES["decoupled"](student, teacher).item() == pytest.approx(total / 3, rel=1e-5)


def test_decoupled_with_the_teachers_own_weights_equals_kd():
    student, teacher = (logits[:1] for logits in pair())
    off_label = 1 - teacher.div(2).softmax(dim=1)[0, 1].item()

    parts = decoupled(student, teacher, LABELS[:1], alpha=1.0, beta=off_label, temperature=2.0)

    assert parts.item() == pytest.approx(kd(student, teacher, temperature=2.0).item(), rel=1e-5)


def test_normalized_equals_the_literal_sum():
    student, teacher = pair()
    total = 0.0
    for s, t, y in rows(student, teacher):
        total -= softmax(t)[y] * math.log(softmax(s)[y])
        others = zip(softmax(without(t, y), 2), softmax(without(s, y), 2), strict=True)
        total -= 1.5 * 4 * sum(b * math.log(a) for b, a in others)

    assert LOSSES["normalized"](student, teacher).item() == pytest.approx(total / 3, rel=1e-5)


def test_one_for_all_equals_the_literal_sum():
    student, teacher = pair()
    total = 0.0
    for s, t, y in rows(student, teacher):
        for k, (a, b) in enumerate(zip(softmax(s, 2), softmax(t, 2), strict=True)):
            mark = float(k == y)
            total -= ((b + mark) ** 1.5 - mark) * math.log(a)

    assert LOSSES["one_for_all"](student, teacher).item() == pytest.approx(total / 3, rel=1e-5)


def test_weighted_soft_labels_equals_the_literal_sum():
    student, teacher = pair()
    total = 0.0
    for s, t, y in rows(student, teacher):
        weight = 1 - math.exp(-math.log(softmax(s)[y]) / (math.log(softmax(t)[y]) - 1e-7))
        total -= weight * sum(b * math.log(a) for a, b in zip(softmax(s, 2), softmax(t, 2), strict=True))

    assert LOSSES["weighted_soft_labels"](student, teacher).item() == pytest.approx(2 * 4 * total / 3, rel=1e-5)


def test_the_weight_of_a_sample_has_no_gradient():
    student, teacher = pair()
    errors = [torch.nn.functional.cross_entropy(logits, LABELS, reduction="none") for logits in (student, teacher)]
    weight = 1 - (-errors[0] / errors[1]).exp()
    gap = student.div(2).softmax(dim=1) - teacher.div(2).softmax(dim=1)
    student.requires_grad_()

    LOSSES["weighted_soft_labels"](student, teacher).backward()

    torch.testing.assert_close(student.grad, 2 * 4 * weight.unsqueeze(1) * gap / 2 / 3)


def test_a_sample_that_the_student_predicts_perfectly_has_no_weight():
    sure = 100.0 * torch.nn.functional.one_hot(LABELS, 5)

    assert weighted_soft_labels(sure, torch.zeros(3, 5), LABELS, alpha=1.0, temperature=1.0).item() == 0


@pytest.mark.parametrize("name", LOSSES)
@STEADY
@given(shift=st.floats(-50, 50))
def test_losses_are_invariant_to_a_shift_of_all_logits(name, shift):
    student, teacher = pair()

    moved = LOSSES[name](student + shift, teacher - shift).item()

    assert moved == pytest.approx(LOSSES[name](student, teacher).item(), rel=1e-3)


@pytest.mark.parametrize("loss", [decoupled, normalized])
def test_a_single_class_is_rejected(loss):
    options = {"alpha": 1.0, "beta": 1.0} if loss is decoupled else {"gamma": 1.0}

    with pytest.raises(ValueError, match="2 classes"):
        loss(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), temperature=1.0, **options)
