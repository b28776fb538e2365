"""Decoupled distillation: official value, weights and warm-up."""

import pytest
import torch
import torch.nn.functional as F

from core.losses import decoupled, kd
from core.methods import Batch, Outputs, StepInfo, build_method
from core.spec.methods.dkd import DkdParams

LATE = StepInfo(step=9, total_steps=10, epoch=9.0, epochs=10)


@pytest.fixture
def official():
    """Draws that the official value was computed with."""
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(4, 7), 3 * torch.randn(4, 7)
    return student, teacher, Batch(torch.zeros(4, 1, 1, 1), torch.randint(0, 7, (4,)), torch.arange(4))


def build(context, **params):
    return build_method(DkdParams(name="dkd", **params), context)


def test_dkd_matches_the_official_value(context, official):
    student, teacher, batch = official

    method = build(context, alpha=1.0, beta=0.5, temperature=1.0)

    assert method.distance(student, teacher, batch).item() == pytest.approx(0.910620106, rel=1e-5)


def test_default_weights_of_both_divergences_are_one(context, batch, logits):
    terms = build(context).loss(batch, Outputs(logits(1)), [Outputs(logits(2))], LATE)

    expected = decoupled(logits(1), logits(2), batch.labels, alpha=1.0, beta=1.0, temperature=4.0)
    assert terms["distillation"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert terms["label"].item() == pytest.approx(F.cross_entropy(logits(1), batch.labels).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("given", "epochs", "expected"), [(None, 24, 0.25), (None, 240, 0.025), (4.0, 24, 0.125), (0, 24, 1)]
)
def test_distillation_is_warmed_up_over_a_twelfth_of_the_training_or_as_requested(given, epochs, expected, context):
    info = StepInfo(step=0, total_steps=2 * epochs, epoch=0.0, epochs=epochs)

    assert build(context, warmup_epochs=given).warmup(info) == pytest.approx(expected)


def test_the_warm_up_ends(context):
    assert build(context).warmup(StepInfo(step=4, total_steps=48, epoch=2.0, epochs=24)) == 1


def test_with_beta_equal_to_the_teachers_doubt_dkd_equals_kd(context, batch, logits):
    """If beta is the teacher's probability of the other classes, dkd equals kd."""
    one = Batch(batch.images[:1], batch.labels[:1], batch.indices[:1])
    student, teacher = logits(1)[:1], logits(2)[:1]
    doubt = 1 - (teacher / 4).softmax(dim=1)[0, one.labels[0]].item()

    assert build(context, beta=doubt).distance(student, teacher, one).item() == pytest.approx(
        kd(student, teacher, temperature=4.0).item(), rel=1e-4
    )
