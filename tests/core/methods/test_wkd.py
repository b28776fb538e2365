"""Wasserstein distillation: costs from the teacher's classifier, and the decay of the weight."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.losses import wasserstein_logits
from core.methods import StepInfo, build_method
from core.methods.wkd import class_costs, decay_factor
from core.spec.methods.wkd import WkdParams


def test_the_terms_match_their_definitions(make_harness, batch):
    harness = make_harness("wkd", weight=4.0, sharpen=2.0, decay_start=0.5)
    student, teacher = harness.student_outputs(batch.images), harness.teachers[0](batch.images)
    rows = harness.teachers[0].built.module.head.weight
    cosine = F.cosine_similarity(rows[:, None], rows[None], dim=2)

    terms = harness.terms(batch)

    expected = wasserstein_logits(
        student.logits, teacher.logits, batch.labels, 1 - torch.exp(-2 * (1 - cosine)), temperature=2.0, weight=4.0
    )
    assert terms["label"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item(), rel=1e-6)
    assert terms["distillation"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_costs_are_zero_on_the_diagonal_and_at_most_one():
    teacher = torch.nn.Module()
    teacher.get_classifier = lambda: torch.nn.Linear(6, 5)

    costs = class_costs(teacher, sharpen=3.0)

    assert costs.shape == (5, 5)
    assert costs.diagonal().abs().max() < 1e-5
    assert costs.min() > -1e-5
    assert costs.max() <= 1


@pytest.mark.parametrize(
    ("step", "start", "factor"),
    [(0, 0.0, 1.0), (5, 0.0, 0.5), (10, 0.0, 0.0), (5, 0.5, 1.0), (9, 1.0, 1.0), (6, 0.2, 0.5)],
)
def test_the_weight_falls_along_half_a_cosine(step, start, factor):
    assert decay_factor(StepInfo(step=step, total_steps=10), start) == pytest.approx(factor)


def test_a_teacher_without_a_linear_classifier_is_rejected(context):
    teacher = replace(context.teachers[0], module=torch.nn.Identity())

    with pytest.raises(InvalidSpec, match="linear classifier") as caught:
        build_method(WkdParams(name="wkd"), replace(context, teachers=(teacher,)))

    assert [error.pointer for error in caught.value.errors] == ["/teachers/0/architecture"]


def test_too_many_classes_are_rejected(context):
    student = replace(context.student, arguments={**context.student.arguments, "num_classes": 2001})

    with pytest.raises(InvalidSpec, match="2001; use method kd"):
        build_method(WkdParams(name="wkd"), replace(context, student=student))
