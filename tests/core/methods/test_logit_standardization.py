"""Logit standardization: official value, invariance to scale, and both bases."""

import pytest
import torch
import torch.nn.functional as F

from core.losses import decoupled, standardize
from core.methods import Batch, Outputs, StepInfo, build_method
from core.spec.methods.logit_standardization import LogitStandardizationParams

LATE = StepInfo(step=9, total_steps=10, epoch=9.0, epochs=10)


def build(context, **params):
    return build_method(LogitStandardizationParams(name="logit_standardization", **params), context)


def test_base_kd_matches_the_official_value(context):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(4, 7), 3 * torch.randn(4, 7)
    batch = Batch(torch.zeros(4, 1, 1, 1), torch.arange(4), torch.arange(4))

    value = build(context, temperature=4.0).distance(student, teacher, batch)

    assert value.item() == pytest.approx(0.624351677, rel=1e-5)


@pytest.mark.parametrize("base", ["kd", "dkd"])
def test_scale_and_offset_of_the_logits_have_no_influence(base, context, batch, logits):
    method = build(context, base=base)

    plain = method.distance(logits(1), logits(2), batch)
    moved = method.distance(5 * logits(1) + 3, 0.2 * logits(2) - 1, batch)

    assert moved.item() == pytest.approx(plain.item(), rel=1e-4)
    assert plain.item() > 0.01


def test_base_dkd_decouples_the_standardized_logits(context, batch, logits):
    terms = build(context, base="dkd").loss(batch, Outputs(logits(1)), [Outputs(logits(2))], LATE)

    both = standardize(logits(1)), standardize(logits(2))
    expected = 9 * decoupled(*both, batch.labels, alpha=1.0, beta=8.0, temperature=2.0)
    assert terms["distillation"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("base", "given", "expected"), [("kd", None, 0.1), ("dkd", None, 1.0), ("dkd", 0.3, 0.3)])
def test_the_default_label_weight_is_that_of_the_bases_official_recipe(base, given, expected, context, batch, logits):
    method = build(context, base=base, label_weight=given)

    term = method.loss(batch, Outputs(logits(1)), [Outputs(logits(2))], LATE)["label"]

    assert term.item() == pytest.approx(expected * F.cross_entropy(logits(1), batch.labels).item(), rel=1e-6)


@pytest.mark.parametrize(("base", "expected"), [("kd", 1.0), ("dkd", 0.25)])
def test_only_base_dkd_is_warmed_up(base, expected, context):
    info = StepInfo(step=0, total_steps=48, epoch=0.0, epochs=24)

    assert build(context, base=base).warmup(info) == pytest.approx(expected)
