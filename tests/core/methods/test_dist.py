"""DIST: official values and default weights."""

import pytest
import torch

from core.methods import Batch, Outputs, StepInfo, build_method
from core.spec.methods.dist import DistParams


def build(context, **params):
    return build_method(DistParams(name="dist", **params), context)


@pytest.mark.parametrize(
    ("beta", "gamma", "expected"), [(1.0, 1.0, 1.795737425), (1.0, 0.0, 0.871654404), (0.0, 1.0, 0.924083021)]
)
def test_dist_matches_the_official_value(beta, gamma, expected, context):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(4, 7), 3 * torch.randn(4, 7)
    batch = Batch(torch.zeros(4, 1, 1, 1), torch.arange(4), torch.arange(4))

    value = build(context, beta=beta, gamma=gamma, temperature=1.0).distance(student, teacher, batch)

    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_default_weights_are_the_papers_for_small_images(context, batch, logits):
    terms = build(context).loss(batch, Outputs(logits(1)), [Outputs(logits(2))], StepInfo())

    expected = build(context, beta=2, gamma=2, temperature=4).distance(logits(1), logits(2), batch)
    assert terms["distillation"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_distance_is_zero_if_student_and_teacher_agree(context, batch, logits):
    assert build(context).distance(logits(1), logits(1), batch).item() == pytest.approx(0.0, abs=1e-4)
