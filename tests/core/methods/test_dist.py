"""Correlations with the teacher: the official values, and what they do not see."""

import pytest
import torch

from core.methods import Batch, Outputs, StepInfo, build_method
from core.spec.methods.dist import DistParams


def build(setting, **params):
    return build_method(DistParams(name="dist", **params), setting)


@pytest.mark.parametrize(
    ("beta", "gamma", "expected"), [(1.0, 1.0, 1.795737425), (1.0, 0.0, 0.871654404), (0.0, 1.0, 0.924083021)]
)
def test_dist_is_the_official_value(beta, gamma, expected, setting):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(4, 7), 3 * torch.randn(4, 7)
    batch = Batch(torch.zeros(4, 1, 1, 1), torch.arange(4), torch.arange(4))

    value = build(setting, beta=beta, gamma=gamma, temperature=1.0).distance(student, teacher, batch)

    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_dist_has_the_papers_weights_for_small_images(setting, batch, logits):
    terms = build(setting).loss(batch, Outputs(logits(1)), [Outputs(logits(2))], StepInfo())

    alike = build(setting, beta=2, gamma=2, temperature=4).distance(logits(1), logits(2), batch)
    assert terms["distillation"].item() == pytest.approx(alike.item(), rel=1e-6)


def test_a_student_that_agrees_has_nothing_to_learn_from_the_teacher(setting, batch, logits):
    assert build(setting).distance(logits(1), logits(1), batch).item() == pytest.approx(0.0, abs=1e-4)
