"""Weighted soft labels: the paper's formula, sample by sample."""

import math

import pytest
import torch

from core.methods import Batch, Outputs, StepInfo, build_method
from core.spec.methods.wsld import WsldParams


def build(context, **params):
    return build_method(WsldParams(name="wsld", **params), context)


def literal(student, teacher, label, temperature):
    """One sample's term, by the paper's formula."""

    def softmax(logits, softening):
        powers = [math.exp(z / softening) for z in logits]
        return [power / sum(powers) for power in powers]

    student_error, teacher_error = (-math.log(softmax(logits, 1)[label]) for logits in (student, teacher))
    weight = 1 - math.exp(-student_error / teacher_error)
    pairs = zip(softmax(teacher, temperature), softmax(student, temperature), strict=True)
    return weight * -sum(p * math.log(q) for p, q in pairs)


def test_wsld_matches_the_papers_formula(context, batch, logits):
    terms = build(context).loss(batch, Outputs(logits(1)), [Outputs(logits(2))], StepInfo())

    rows = zip(logits(1).tolist(), logits(2).tolist(), batch.labels.tolist(), strict=True)
    expected = 2.25 * 4**2 * sum(literal(s, t, y, 4) for s, t, y in rows) / 6
    assert terms["distillation"].item() == pytest.approx(expected, rel=1e-4)


def test_a_sample_that_the_student_predicts_well_has_no_weight(context):
    batch = Batch(torch.zeros(1, 1, 1, 1), torch.tensor([1]), torch.tensor([0]))
    known, teacher = torch.tensor([[0.0, 20.0, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0, 0.0]])
    unknown = torch.tensor([[20.0, 0.0, 0.0, 0.0]])
    method = build(context, temperature=20.0)

    assert method.distance(known, teacher, batch).item() == pytest.approx(0.0, abs=1e-3)
    assert method.distance(unknown, teacher, batch).item() > 100
