"""Weighted soft labels: the formula sample by sample, and where the weight comes from."""

import math

import pytest
import torch

from core.methods import Batch, Outputs, StepInfo, build_method
from core.spec.methods.wsld import WsldParams


def build(setting, **params):
    return build_method(WsldParams(name="wsld", **params), setting)


def literal(student, teacher, label, temperature):
    """One sample's term as the paper writes it."""

    def softmax(logits, softening):
        powers = [math.exp(z / softening) for z in logits]
        return [power / sum(powers) for power in powers]

    student_error, teacher_error = (-math.log(softmax(logits, 1)[label]) for logits in (student, teacher))
    weight = 1 - math.exp(-student_error / teacher_error)
    pairs = zip(softmax(teacher, temperature), softmax(student, temperature), strict=True)
    return weight * -sum(p * math.log(q) for p, q in pairs)


def test_wsld_is_the_papers_formula(setting, batch, logits):
    terms = build(setting).loss(batch, Outputs(logits(1)), [Outputs(logits(2))], StepInfo())

    rows = zip(logits(1).tolist(), logits(2).tolist(), batch.labels.tolist(), strict=True)
    expected = 2.25 * 4**2 * sum(literal(s, t, y, 4) for s, t, y in rows) / 6
    assert terms["distillation"].item() == pytest.approx(expected, rel=1e-4)


def test_a_sample_that_the_student_knows_is_left_to_it(setting):
    batch = Batch(torch.zeros(1, 1, 1, 1), torch.tensor([1]), torch.tensor([0]))
    known, teacher = torch.tensor([[0.0, 20.0, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0, 0.0]])
    unknown = torch.tensor([[20.0, 0.0, 0.0, 0.0]])
    method = build(setting, temperature=20.0)

    assert method.distance(known, teacher, batch).item() == pytest.approx(0.0, abs=1e-3)
    assert method.distance(unknown, teacher, batch).item() > 100
